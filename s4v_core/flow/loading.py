"""The bytes of planned rows, with as few requests as their containers allow."""

from collections.abc import Sequence
from typing import Any

from s4v_core.inputs.image_bytes import read_images, read_sidecar
from s4v_core.inputs.web_policy import WebPolicy

_WEB = WebPolicy()


def load_rows(
    planned: Sequence[dict[str, Any]],
    reads_payloads: bool,
    max_bytes: int | None = None,
    web: WebPolicy = _WEB,
) -> tuple[list[dict[str, Any]], list[bytes | str | None]]:
    """Planned rows with their payloads, and the content of each: its bytes, or the reason why there
    are none; None for a row that names no file.

    Args:
        reads_payloads: Whether payloads that the plan only names (loose sidecar files) are read.
        max_bytes: Larger files are not read, and have the reason `file_too_big`.
        web: How URLs are fetched.

    Raises:
        StorageError: The store does not answer.
    """
    rows = list(planned)
    if reads_payloads:
        rows = [row | {"payload": read_sidecar(row["payload"])} for row in rows]
    contents: list[bytes | str | None] = [None] * len(rows)
    places = [at for at, row in enumerate(rows) if row["container"] is not None]
    found = read_images([rows[at] for at in places], max_bytes, web)
    for at, content in zip(places, found, strict=True):
        contents[at] = content
    return rows, contents
