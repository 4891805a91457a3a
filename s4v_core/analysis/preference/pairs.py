"""Draws images that two sets have captions of, with both captions and the place of the image.

Holds the hashes of one set's names in memory, and the captions of some more images than are drawn.
"""

import heapq
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from s4v_core import storage
from s4v_core.analysis.caption_texts import CaptionSet, is_run
from s4v_core.analysis.preference.image_captions import (
    ImageCaption,
    find_planned_places,
    read_image_captions,
)
from s4v_core.annotation.ballot import draw_digest
from s4v_core.datasets.image_index import ImageIndex, Place
from s4v_core.errors import InputError
from s4v_core.inputs.image_bytes import read_images
from s4v_core.pages.thumbnails import make_jpeg, open_thumbnail_decoder
from s4v_core.records.schemas import PLACE_FIELDS

_SPARE = 64
_BATCH = 32
_SHORT_HASH = 8


@dataclass(frozen=True, slots=True)
class Pair:
    """Two captions of one image.

    Attributes:
        image: Name of the image.
        place: Where the image is stored (PLACE_FIELDS).
    """

    image: str
    a: str
    b: str
    place: Place


@dataclass(slots=True)
class Draw:
    """The result of a draw.

    Attributes:
        pairs: The pairs, in the order in which they were drawn.
        common: Number of images that both sets have a caption of.
        left_out: Images that were drawn and cannot be shown, by reason.
    """

    pairs: list[Pair] = field(default_factory=list)
    common: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def as_text(self) -> str:
        """A line for people."""
        text = f"{len(self.pairs):,} images drawn of {self.common:,} that both sets describe"
        if self.left_out:
            reasons = ", ".join(f"{name} {count:,}" for name, count in self.left_out.most_common())
            text += f"; {self.left_out.total():,} more cannot be shown ({reasons})"
        return text


def draw_pairs(
    a: CaptionSet,
    b: CaptionSet,
    images: Sequence[str],
    count: int,
    seed: int,
    key: str | None = None,
    match_file_names: bool = False,
) -> Draw:
    """Draw images that both sets have a caption of and that can be decoded.

    With one seed, fewer images are the first of more.

    Args:
        images: Inputs with the images; by default those of a caption run among the two, or the
            folder of the first file.
        key: Field of a record that names its image; by default it is found.
        match_file_names: Whether an image may be found by its file name alone.

    Raises:
        InputError: A set or input cannot be read, or no image has a caption in both.
    """
    draw = Draw()
    drawn = _draw_common(a, b, count, seed, key, draw)
    places = _find_places(a, b, images, list(drawn), match_file_names)
    with_places = [(name, texts, places[name]) for name, texts in drawn.items()]
    decoder = open_thumbnail_decoder()
    try:
        for start in range(0, len(with_places), _BATCH):
            batch = with_places[start : start + _BATCH]
            good = [place for _, _, place in batch if not isinstance(place, str)]
            stored = iter(read_images(good))
            for name, texts, place in batch:
                found = place if isinstance(place, str) else make_jpeg(decoder, next(stored))
                if len(draw.pairs) == count:
                    return draw
                if isinstance(place, str) or isinstance(found, str):
                    draw.left_out[str(found)] += 1
                else:
                    draw.pairs.append(Pair(name, *texts, _keep_place(place)))
    finally:
        decoder.close()
    if not draw.pairs:
        reasons = ", ".join(draw.left_out)
        raise InputError(a.uri, f"no image that it shares with {b.uri} can be shown ({reasons})")
    return draw


def _draw_common(
    a: CaptionSet, b: CaptionSet, count: int, seed: int, key: str | None, draw: Draw
) -> dict[str, tuple[str, str]]:
    """Both captions of some more common images than `count`, in the order of the draw."""
    example: ImageCaption | None = None
    names: set[bytes] = set()
    for example in read_image_captions(a, key):
        names.add(_hash(example.image))
    found: dict[str, str] = {}
    ranked: list[tuple[int, str]] = []  # the last of the draw first
    common: set[bytes] = set()
    other: ImageCaption | None = None
    for other in read_image_captions(b, key):
        if _hash(other.image) not in names or _hash(other.image) in common:
            continue
        common.add(_hash(other.image))
        heapq.heappush(ranked, (-_rank(seed, other.image), other.image))
        found[other.image] = other.text
        if len(ranked) > 2 * count + _SPARE:
            del found[heapq.heappop(ranked)[1]]
    draw.common = len(common)
    if not common:
        sides = ((a, example), (b, other))
        raise InputError(a.uri, f"{_name_examples(sides)}; name the field of the image by --key")
    firsts: dict[str, str] = {}
    for one in read_image_captions(a, key):
        if one.image in found:
            firsts.setdefault(one.image, one.text)
    return {name: (firsts[name], found[name]) for _, name in sorted(ranked, reverse=True)}


def _name_examples(sides: Sequence[tuple[CaptionSet, ImageCaption | None]]) -> str:
    found = ", ".join(
        f"{one.name} has {repr(example.image) if example else 'no caption that names an image'}"
        for one, example in sides
    )
    return f"the two sets have no image in common: {found}"


def _find_places(
    a: CaptionSet, b: CaptionSet, images: Sequence[str], names: list[str], match_file_names: bool
) -> dict[str, Place | str]:
    """The place of each image, or the reason why there is none."""
    runs = [one.uri for one in (a, b) if is_run(one.uri)]
    if images or not runs:
        index = ImageIndex(tuple(images) or (storage.parent(a.uri),), match_file_names)
        found = {name: index.find(name) for name in names}
        index.warn_of_matches()
        return found
    planned = find_planned_places(runs[0], set(names))
    return {name: planned.get(name, "not_found") for name in names}


def _keep_place(place: Place) -> Place:
    return {one.name: place[one.name] for one in PLACE_FIELDS} | {"payload": None}


def _hash(image: str) -> bytes:
    return draw_digest("", image)[:_SHORT_HASH]


def _rank(seed: int, image: str) -> int:
    return int.from_bytes(draw_digest(f"draw/{seed}", image)[:_SHORT_HASH], "big")
