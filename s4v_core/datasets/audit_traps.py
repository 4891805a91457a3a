"""Names the known traps of the ShareGPT4V data where an audit meets them, with the way out."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from s4v_core.datasets.audit_counts import AuditCounts
from s4v_core.datasets.image_search import MISSING, SearchResult

_KNOWN_MISSING = "web-celebrity/images/Choi_Min-sik.jpg"
_BROKEN_TARS = {14, 16, 17, 19}
_SHORTCUT_TARS = {1, 2}

_NEAR = {
    "nested": (
        "unpacked_too_deep",
        "lie in further folders, as the web archives unpack (data/SOURCE/images inside of SOURCE); "
        "give their parent as --images, or move them up",
    ),
    "other_ending": (
        "other_ending",
        "are there with another ending; OCR-VQA's originals mix .jpg, .png and .gif, and the "
        "records expect .jpg: rename them",
    ),
    "textvqa_folder": (
        "textvqa_folder",
        "have their name in the other one of textvqa/train_images and share_textvqa/images, which "
        "hold different images: do not copy them, fetch the right archive",
    ),
    "sam_name": (
        "sam_folder",
        "are SAM images outside of sam/images; give that folder its name, or train with "
        "--match-file-names",
    ),
}

_SURPRISES = {
    "other_format": (
        "lying_ending",
        "are of another format than their ending says; programs that trust the ending fail",
    ),
    "exif_orientation": (
        "exif_orientation",
        "are rotated by an EXIF tag; the original's loader did not apply it",
    ),
    "alpha": (
        "transparent",
        "have transparent pixels; the original's loader showed the colour stored below",
    ),
}


@dataclass(frozen=True, slots=True)
class Trap:
    """A known trap that was met: its name, how many images or records it concerns, a sentence about
    it, and an example."""

    name: str
    count: int
    sentence: str
    example: str = ""


def find_traps(counts: AuditCounts, search: SearchResult | None) -> list[Trap]:
    """All traps that the counts show, in a fixed order."""
    found = list(_find_record_traps(counts))
    if search:
        found += _find_image_traps(counts, search)
    return found


def _find_record_traps(counts: AuditCounts) -> Iterator[Trap]:
    if unsafe := counts.faults["unsafe_path"]:
        yield Trap("unsafe_path", unsafe, "records name absolute paths, .. or backslashes")
    if counts.repeated_ids:
        yield Trap(
            "repeated_ids",
            counts.repeated_ids,
            "records have the id of an earlier one; ids are not unique: tell records by image",
        )
    if unlike := counts.unlike.total():
        sources = ", ".join(f"{name} {count:,}" for name, count in counts.unlike.items())
        yield Trap(
            "unlike_its_source",
            unlike,
            f"images have a path unlike the published ones of their folder ({sources})",
        )


def _find_image_traps(counts: AuditCounts, search: SearchResult) -> Iterator[Trap]:
    kinds = Counter(miss.kind for miss in search.near.values())
    for kind, (name, sentence) in _NEAR.items():
        if kinds[kind]:
            image, miss = next(one for one in search.near.items() if one[1].kind == kind)
            sentence = f"missing images {sentence}"
            yield Trap(name, kinds[kind], sentence, f"{image} is {miss.place}")
    yield from _find_sam_traps(counts.lost_sam_tars)
    if _KNOWN_MISSING in counts.images and search.judge(_KNOWN_MISSING) == MISSING:
        sentence = f"image is missing that the published archive lacks, too: {_KNOWN_MISSING}"
        yield Trap("missing_upstream", 1, sentence)
    for uri, kind in sorted(search.damages.items()):
        yield Trap("damaged_archive", 1, f"archive is not whole ({kind}); fetch it again", uri)
    for surprise, (name, sentence) in _SURPRISES.items():
        if search.surprises[surprise]:
            yield Trap(name, search.surprises[surprise], f"images {sentence}")


def _find_sam_traps(tars: Counter[int]) -> Iterator[Trap]:
    if not tars:
        return
    listed = ", ".join(f"{tar:06d}: {count:,}" for tar, count in sorted(tars.items()))
    hints = []
    if tars.keys() & _BROKEN_TARS:
        hints.append("downloads of tars 14, 16, 17 and 19 are often corrupt")
    if tars.keys() & _SHORTCUT_TARS:
        hints.append("the 9K shortcut archive lacks images of tars 1 and 2")
    advice = f"; {'; '.join(hints)}" if hints else ""
    yield Trap(
        "sam_incomplete",
        tars.total(),
        f"SAM images are lost, by the SA-1B tar they probably lie in ({listed}){advice}",
    )
