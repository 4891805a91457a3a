"""The image sources of the ShareGPT4V data sets, told by the paths in their records."""

import re
from dataclasses import dataclass

TEXT_ONLY = "text only"
"""Source of a record without an image."""


@dataclass(frozen=True, slots=True)
class ImageSource:
    """A source of images.

    Attributes:
        name: Its short name; several folders may share one.
        folder: Folder of its images below the data root.
        pattern: Regular expression of the paths that the published files hold.
        licence: Terms of the images.
    """

    name: str
    folder: str
    pattern: re.Pattern[str]
    licence: str


_ANY_JPG = r"[^/]+\.jpg"
_ANY = r"[^/]+"
_OWN_TERMS = "own terms of the data set; never redistribute"
_ACADEMIC = "academic use only"


def _build(name: str, folder: str, file: str, licence: str = _OWN_TERMS) -> ImageSource:
    return ImageSource(name, folder, re.compile(re.escape(folder) + file), licence)


SOURCES = (
    _build("coco", "coco/train2017/", r"\d{12}\.jpg"),
    _build("lcs", "llava/llava_pretrain/images/", r"\d{5}/\d{9}\.jpg"),
    _build("sam", "sam/images/", r"sa_\d+\.jpg"),
    _build("textcaps", "share_textvqa/images/", _ANY),
    _build("wikiart", "wikiart/images/", _ANY, _ACADEMIC),
    _build("celebrity", "web-celebrity/images/", _ANY, _ACADEMIC),
    _build("landmark", "web-landmark/images/", _ANY, _ACADEMIC),
    _build("gqa", "gqa/images/", _ANY_JPG),
    _build("ocr_vqa", "ocr_vqa/images/", _ANY_JPG),
    _build("textvqa", "textvqa/train_images/", _ANY_JPG),
    _build("vg", "vg/VG_100K/", r"\d+\.jpg"),
    _build("vg", "vg/VG_100K_2/", r"\d+\.jpg"),
)
"""All sources of the three published files (docs/Data.md of ShareGPT4V)."""


def find_source(image: str) -> ImageSource | None:
    """The source of an image by its folder, or None for one that is not ShareGPT4V's."""
    return next((source for source in SOURCES if image.startswith(source.folder)), None)


def name_source(image: str | None) -> str:
    """Short name of an image's source: one of ShareGPT4V's, or its own first folder."""
    if not image:
        return TEXT_ONLY
    source = find_source(image)
    if source:
        return source.name
    folder, slash, _ = image.partition("/")
    return f"other: {folder}/" if slash else "other"


def name_pattern(image: str) -> str:
    """The pattern of a path: its folders, with `#` for digits in a row and `*` for other names."""
    folder, slash, name = image.rpartition("/")
    stem, dot, ending = name.rpartition(".")
    found = re.fullmatch(r"(\D{0,8})\d+", stem or name)
    stem = f"{found[1]}#" if found else "*"
    return re.sub(r"\d+", "#", folder) + slash + stem + (dot + ending if dot else "")


SAM_TARS = 51
_LAST_SAM = 570_590


def estimate_sam_tar(image: str) -> int | None:
    """Number of the SA-1B tar that a SAM image probably lies in; the tars hold them in order."""
    found = re.search(r"(?:^|/)sa_(\d+)\.jpg$", image)
    number = int(found[1]) if found else 0
    if not 0 < number <= _LAST_SAM:
        return None
    return (number - 1) * SAM_TARS // _LAST_SAM
