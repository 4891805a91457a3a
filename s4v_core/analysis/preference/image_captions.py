"""Reads the captions of a set together with the names of their images."""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any

from s4v_core.analysis.caption_texts import CaptionSet, is_run, list_texts
from s4v_core.datasets.bad_fields import BadFieldError
from s4v_core.datasets.image_fields import list_images
from s4v_core.datasets.image_index import Place
from s4v_core.datasets.image_search import normalise_name
from s4v_core.datasets.record_files import read_record_file
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import require_plan_head
from s4v_core.records.planned_rows import read_planned_unit

_KEY_FIELDS = ("image_id", "image/key", "key", "file_name", "filename", "path", "id")
"""Fields that name the image of a record without an image field, in order of preference."""


@dataclass(frozen=True, slots=True)
class ImageCaption:
    """A caption, and the name of its image."""

    image: str
    text: str


def read_image_captions(captions: CaptionSet, key: str | None = None) -> Iterator[ImageCaption]:
    """Yield the first caption of each record or row that names an image.

    Args:
        key: Field that names the image; by default it is found.

    Raises:
        InputError: There is no such file or run.
    """
    if is_run(captions.uri):
        yield from _read_run(captions)
        return
    for span in read_record_file(captions.uri, keeps_bad=True):
        texts = list_texts(span.value, captions.field)
        name = _find_name(span.value, key) if texts else None
        if name:
            yield ImageCaption(normalise_name(name), texts[0].strip())


def _read_run(captions: CaptionSet) -> Iterator[ImageCaption]:
    head = require_plan_head(captions.uri)
    units = caption_units(captions.uri, head.settings)
    field = captions.field or "caption"
    for unit in sorted(units.list_done()):
        for row in units.read(unit).to_pylist():
            text = row.get(field)
            if row["status"] == "ok" and isinstance(text, str) and text.strip():
                yield ImageCaption(normalise_name(row["image_id"]), text.strip())


def _find_name(record: Any, key: str | None) -> str | None:
    if not isinstance(record, dict):
        return None
    if key is not None:
        return _keep_name(record.get(key))
    try:
        images = list_images(record)
    except BadFieldError:
        return None
    if images:
        return images[0].name
    found = (_keep_name(record.get(field)) for field in _KEY_FIELDS)
    name = next((one for one in found if one), None)
    if name is None and len(record) == 1:  # {path: caption}, as the original's script writes
        name = next(iter(record))
    return name


def _keep_name(value: Any) -> str | None:
    is_name = isinstance(value, str | int) and not isinstance(value, bool)
    return str(value) if is_name and str(value).strip() else None


def find_planned_places(output: str, images: Collection[str]) -> dict[str, Place]:
    """Where a caption run found these of its images."""
    head = require_plan_head(output)
    found: dict[str, Place] = {}
    for unit in head.units:
        if len(found) == len(images):
            break
        for place in read_planned_unit(output, unit, head.parts).to_pylist():
            name = normalise_name(place["image_id"])
            if name in images:
                found.setdefault(name, place)
    return found
