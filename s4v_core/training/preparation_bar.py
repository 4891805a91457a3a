"""The progress bar of a preparation: samples, rate and remaining time."""

from collections.abc import Iterator, Mapping
from typing import Any, Self, TypeVar

from s4v_core.progress import open_bar

_T = TypeVar("_T")


class PreparationBar:
    """A progress bar on stderr. The number of samples is estimated from the bytes that are read.

    Args:
        versions: Size in bytes of each data set, as `read_versions` finds it.
    """

    def __init__(self, versions: Mapping[str, Mapping[str, Any]]) -> None:
        # The bytes of a caption run are not read one after the other, and those of a compressed
        # file are more than its size.
        sizes = {uri: version["size"] for uri, version in versions.items()}
        plain = all(uri.lower().endswith(("json", "jsonl")) for uri in sizes)
        self._bytes = sum(size or 0 for size in sizes.values()) if plain else 0
        self._read: dict[str, int] = {}
        self._samples_read = 0
        self._bar = open_bar("preparing samples", None, 0, "samples", width=110)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.close()

    def count(self, samples: Iterator[_T]) -> Iterator[_T]:
        """Yield the samples, and count them as read."""
        for sample in samples:
            self._samples_read += 1
            yield sample

    def show_read(self, uri: str, done: int) -> None:
        """Take the number of bytes that have been read of a data set."""
        self._read[uri] = done

    def advance(self, count: int) -> None:
        """Show that so many samples more are encoded."""
        if self._bytes and (read := sum(self._read.values())):
            self._bar.total = max(round(self._samples_read * self._bytes / read), self._bar.n)
        self._bar.update(count)
