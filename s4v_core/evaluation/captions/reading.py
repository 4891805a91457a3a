"""Captions by image, of a run or of a file, and what references say of the images."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.data_files import read_records
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import PlanHead, read_plan_head
from s4v_core.records.quality import QUALITY
from s4v_core.records.units import UnitFolder

_IDS = ("image_id", "id", "image", "image/key", "key", "file_name", "img_path")
_CAPTIONS = ("captions", "caption", "references", "text", "output", "answer", "description")
_OBJECTS = ("objects", "instances", "labels", "categories")
_NAMES = ("category", "name", "label", "class", "object")


@dataclass(frozen=True, slots=True)
class Captions:
    """The captions of a set of images.

    Attributes:
        texts: By the image's id; None where there is none.
        scores: How well captions fit their images, where the run was scored; `scorer` says by what.
    """

    uri: str
    texts: Mapping[str, str | None]
    aliases: Mapping[str, tuple[str, ...]]
    scores: Mapping[str, float] = field(default_factory=dict)
    scorer: str = ""


@dataclass(frozen=True, slots=True)
class Reference:
    """Everything that is known of an image.

    Attributes:
        objects: Objects that it shows, each by its name and other words for it.
    """

    captions: tuple[str, ...]
    objects: tuple[tuple[str, ...], ...]


def read_captions(uri: str) -> Captions:
    """The captions of a run, or of a file of records with an id or an image and a caption.

    Raises:
        InputError: There is no such run or file, or it holds no captions, or an image twice.
    """
    head = read_plan_head(uri) if storage.stat(uri) is None else None
    if head is not None:
        return _read_run(uri, head)
    texts: dict[str, str | None] = {}
    aliases = {}
    for number, row in enumerate(read_records(uri), 1):
        ids = list_ids(row)
        found = _list_texts(row)
        if not ids or not any(name in row for name in _CAPTIONS):
            lacks = "an image (image_id)" if not ids else "a caption"
            raise InputError(uri, f"record {number} has no {lacks}")
        if ids[0] in texts:
            raise InputError(uri, f"holds image {ids[0]!r} twice; keep one caption of each")
        texts[ids[0]], aliases[ids[0]] = (found[0] if found else None), ids
    return Captions(uri, texts, _drop_shared(aliases))


def _read_run(output: str, head: PlanHead) -> Captions:
    units = caption_units(output, head.settings)
    done = units.list_done()
    missing = set(head.units) - done
    if missing:
        raise InputError(output, f"has {len(missing)} units without captions; finish the run first")
    texts: dict[str, str | None] = {}
    aliases = {}
    scores: dict[str, float] = {}
    for unit in sorted(done):
        for row in units.read(unit).to_pylist():
            key = row["image_id"]
            texts[key] = row["caption"] if row["status"] == "ok" else None
            aliases[key] = tuple(_spell(key))
            if row.get("quality") is not None:
                scores[key] = row["quality"]
    quality = head.settings.get("quality") or {}
    later, scorer = _read_later_scores(output)
    return Captions(
        output, texts, _drop_shared(aliases), scores | later, scorer or quality.get("model", "")
    )


def _drop_shared(aliases: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    """The names of each image without those that other images have, too."""
    counts = Counter(name for names in aliases.values() for name in set(names))
    return {
        key: (key, *(name for name in names if name != key and counts[name] == 1))
        for key, names in aliases.items()
    }


def _read_later_scores(output: str) -> tuple[dict[str, float], str]:
    """Scores that were computed after the run, and the model that they are by."""
    units = UnitFolder(output, QUALITY)
    rows = [row for unit in sorted(units.list_done()) for row in units.read(unit).to_pylist()]
    scores = {row["image_id"]: row["score"] for row in rows if row["score"] is not None}
    return scores, rows[0]["scorer"] if rows else ""


def read_references(uri: str) -> dict[str, Reference]:
    """The references, by every name of their image.

    Raises:
        InputError: There is no such file, or no record has captions or objects.
    """
    found: dict[str, Reference] = {}
    shared: set[str] = set()
    for number, row in enumerate(read_records(uri), 1):
        ids = list_ids(row)
        objects = tuple(_list_objects(row))
        reference = Reference(tuple(_list_texts(row)), objects)
        if not ids or not (reference.captions or any(name in row for name in _OBJECTS)):
            lacks = "an image (image_id)" if not ids else "captions or objects"
            raise InputError(uri, f"record {number} has no {lacks}")
        for name in ids:
            if found.setdefault(name, reference) is not reference:
                shared.add(name)
    for name in shared:  # it would lead to one of several images
        del found[name]
    if not found:
        raise InputError(uri, "holds no image that can be told from the others")
    return found


def find_reference(names: Iterable[str], references: Mapping[str, Reference]) -> Reference | None:
    """The reference of an image, by the first of its names that leads to one."""
    return next((references[name] for name in names if name in references), None)


def list_ids(row: Mapping[str, Any]) -> tuple[str, ...]:
    """All names that a record has for its image, best first."""
    names = [str(row[name]) for name in _IDS if isinstance(row.get(name), str | int)]
    return tuple(dict.fromkeys(spelling for name in names for spelling in _spell(name)))


def _spell(name: str) -> Iterator[str]:
    """A name, and what it is without folder and ending."""
    yield name
    base = name.rstrip("/").rpartition("/")[2]
    yield base
    stem, has_ending, ending = base.rpartition(".")
    if has_ending and stem and len(ending) <= 4:
        yield stem


def _list_texts(row: Mapping[str, Any]) -> list[str]:
    for name in _CAPTIONS:
        values = row.get(name)
        values = values if isinstance(values, list) else [values]
        texts = [one for one in values if isinstance(one, str) and one.strip()]
        if texts:
            return texts
    return []


def _list_objects(row: Mapping[str, Any]) -> Iterator[tuple[str, ...]]:
    for name in _OBJECTS:
        values = row.get(name)
        for one in values if isinstance(values, list) else ():
            words = _list_words(one)
            if words:
                yield words


def _list_words(listed: Any) -> tuple[str, ...]:
    """The words for an object of a list: a word, several for the same, or a record with one."""
    if isinstance(listed, dict):
        listed = next((listed[key] for key in _NAMES if key in listed), None)
    words = listed if isinstance(listed, list) else [listed]
    return tuple(word for word in words if isinstance(word, str) and word.strip())
