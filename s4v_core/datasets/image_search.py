"""Looks up which images of a data set a store holds, whole or damaged, and near misses of the rest.

Streams over the index of the store: in memory are the names that are looked for. An image has the
names that training knows (`image_index.py`).
"""

import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from urllib.parse import unquote

from s4v_core.datasets.image_checks import PixelCheck
from s4v_core.datasets.image_index import list_paths
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import index_rows
from s4v_core.inputs.shard_index import Row, ShardAccount
from s4v_core.inputs.shards import Shard

FOUND, MISSING, AMBIGUOUS, UNCHECKED = "ok", "not_found", "ambiguous_image", "unchecked"
"""States of an image; any other state is what is wrong with it."""

_THREADS = 8
_BATCH = 256
_FILE_URL = "file://"
_BY_ID, _BY_ID_AGAIN, _BY_PATH, _BY_PATH_AGAIN = 1, 2, 4, 8
"""Bits of what was found for a name: an image id of the store, or a path in one of its archives."""

_OTHER_ENDINGS = (".jpg", ".jpeg", ".png", ".gif", ".webp")
_TEXTVQA = ("textvqa/train_images/", "share_textvqa/images/")


@dataclass(frozen=True, slots=True)
class NearMiss:
    """An image of the store that a missing image may be.

    Attributes:
        kind: `nested` (in folders in front of its path), `other_ending`, `textvqa_folder` (of that
            name in the other one of two folders) or `sam_name` (a SAM name in another folder).
        place: What the store calls it.
    """

    kind: str
    place: str


@dataclass(slots=True)
class SearchResult:
    """The result of a search.

    Attributes:
        images: Number of images in the store.
        damages: Shards that are not whole, with the kind of their damage.
        surprises: Number of images whose pixels or names surprise; see PixelCheck.
        near: Near misses of images that are missing.
    """

    images: int = 0
    damages: dict[str, str] = field(default_factory=dict)
    surprises: Counter[str] = field(default_factory=Counter)
    near: dict[str, NearMiss] = field(default_factory=dict)
    _bits: dict[str, int] = field(default_factory=dict)
    _problems: dict[str, str] = field(default_factory=dict)

    def judge(self, image: str) -> str:
        """FOUND, MISSING, AMBIGUOUS, or what is wrong with the image."""
        name = normalise_name(image)
        bits = self._bits.get(name, 0)
        if not bits:
            return MISSING
        again = _BY_ID_AGAIN if bits & _BY_ID else _BY_PATH_AGAIN
        return AMBIGUOUS if bits & again else self._problems.get(name, FOUND)


def normalise_name(image: str) -> str:
    """One spelling of a path: without `./`, as a path if it is a file URL, in composed Unicode."""
    path = unquote(image.removeprefix(_FILE_URL)) if image.startswith(_FILE_URL) else image
    if "://" not in path and (path.startswith(".") or "//" in path or "/." in path):
        path = posixpath.normpath(path)
    return path if path.isascii() else unicodedata.normalize("NFC", path)


def search_images(
    names: Iterable[str],
    images: Sequence[str],
    pixels: PixelCheck | None = None,
    on_images: Callable[[int], object] | None = None,
) -> SearchResult:
    """Search the inputs `images` for the images that records name.

    Args:
        pixels: Decodes every image that is found.
        on_images: Called with a number of images of the store that were looked at.

    Raises:
        InputError: An input does not exist or has nothing that could be an image.
    """
    result = SearchResult(_bits={normalise_name(name): 0 for name in names})
    shards = find_shards(images)
    with ThreadPoolExecutor(_THREADS) as pool:
        searches = pool.map(lambda shard: _search_shard(shard, result, pixels, on_images), shards)
        for shard, found in zip(shards, searches, strict=True):
            _merge(result, shard, found)
    for name in list(result.near):
        if result._bits[name]:
            del result.near[name]
    return result


@dataclass(slots=True)
class _ShardFindings:
    """The images that one shard holds: their names, their damages, and near misses."""

    account: ShardAccount = field(default_factory=ShardAccount)
    by_id: list[str] = field(default_factory=list)
    by_path: list[str] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)
    near: dict[str, NearMiss] = field(default_factory=dict)
    surprises: Counter[str] = field(default_factory=Counter)


def _search_shard(
    shard: Shard,
    result: SearchResult,
    pixels: PixelCheck | None,
    on_images: Callable[[int], object] | None,
) -> _ShardFindings:
    """Look through one shard. Reads the names of `result` and changes nothing of it."""
    found = _ShardFindings()
    rows = index_rows(shard, found.account)
    while batch := list(islice(rows, _BATCH)):
        wanted = [(row, names) for row in batch if (names := _match(row, shard, result, found))]
        if pixels:
            whole = [(row, names) for row, names in wanted if not row["problem"]]
            reasons, surprises = pixels.check([row for row, _ in whole])
            found.surprises += surprises
            for (_, names), reason in zip(whole, reasons, strict=True):
                if reason:
                    found.problems |= dict.fromkeys(names, reason)
        if on_images:
            on_images(len(batch))
    return found


def _match(row: Row, shard: Shard, result: SearchResult, found: _ShardFindings) -> set[str]:
    """The wanted names of an image, which are noted; without any, its near misses are."""
    own = normalise_name(row["image_id"])
    paths = {normalise_name(path) for path in list_paths(shard, row)} - {own}
    by_id = {own} & result._bits.keys()
    by_path = paths & result._bits.keys()
    found.by_id += by_id
    found.by_path += by_path
    names = by_id | by_path
    if row["problem"]:
        found.problems |= dict.fromkeys(names, str(row["problem"]))
    if not names:
        for path in (own, *paths):
            for name, kind in _list_near(path):
                if name in result._bits:
                    found.near[name] = NearMiss(kind, row["image_id"])
                    return names
    return names


def _list_near(path: str) -> Iterator[tuple[str, str]]:
    """Names that records may give to an image with this path, other than it, with their kinds."""
    parts = path.split("/")
    for at in range(1, len(parts) - 1):
        yield "/".join(parts[at:]), "nested"
    stem, _, ending = path.rpartition(".")
    for other in _OTHER_ENDINGS:
        if other != f".{ending}":
            yield stem + other, "other_ending"
    for here, there in (_TEXTVQA, _TEXTVQA[::-1]):
        if path.startswith(here):
            yield there + path.removeprefix(here), "textvqa_folder"
    if re.fullmatch(r"sa_\d+\.jpg", parts[-1]):
        yield f"sam/images/{parts[-1]}", "sam_name"


def _merge(result: SearchResult, shard: Shard, found: _ShardFindings) -> None:
    result.images += found.account.images
    for damage in found.account.damages:
        result.damages[shard.uri] = damage.kind
    for names, once, again in (
        (found.by_id, _BY_ID, _BY_ID_AGAIN),
        (found.by_path, _BY_PATH, _BY_PATH_AGAIN),
    ):
        for name in names:
            bits = result._bits[name]
            result._bits[name] = bits | (again if bits & once else once)
    result._problems.update(found.problems)
    result.near.update(found.near)
    result.surprises += found.surprises
