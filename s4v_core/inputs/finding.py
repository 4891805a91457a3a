"""Finds the shards that belong to the inputs of a job. Lists stores; opens only tables that lie
among images, and the plans of runs.

An input is a folder, a glob or brace pattern, shards (tar, zip, Parquet), a ShareGPT4V/LLaVA JSON
or another list of images, or single image files.
"""

import re
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cache

from s4v_core import storage
from s4v_core.errors import InputError, StorageError
from s4v_core.inputs.file_kinds import (
    SIDECARS,
    cut_query,
    find_ending,
)
from s4v_core.inputs.found_files import FoundFile, classify
from s4v_core.inputs.parquet_shards import holds_image_bytes
from s4v_core.inputs.shards import Shard
from s4v_core.records.plan import PLAN_NAME, is_plan

_OWN_FILES = re.compile(
    r"(plan(-\d+)?|[a-z]+/unit-\d+)\.parquet|(run|stats|forecast)\.json|(captions-)?report\.html"
)
"""Files that a run writes, by their path in its folder."""

_READS = 16
_MAX_FILES = 50_000
"""Loose files of one shard: those of a folder of millions are indexed side by side."""


def find_shards(
    inputs: Sequence[str],
    image_root: str | None = None,
    columns: tuple[str, ...] = (),
    image_column: str | None = None,
    only_missing: str | None = None,
) -> list[Shard]:
    """Find the shards of all inputs, in the given order; a file that several inputs hold counts
    once.

    Left out are the output folders of runs, and tables that only describe the images beside them.

    Raises:
        InputError: An input does not exist or has nothing that could be an image.
    """
    image_root = image_root and storage.absolute(image_root)
    found: dict[str, FoundFile] = {}
    resolve = cache(storage.resolve)  # other spellings of a folder, and links to it
    closed: dict[str, Shard] = {}
    for pattern in inputs:
        try:
            files, folders = _list_input(pattern)
        except storage.PlaceError as error:  # a scheme without its package, a closed folder
            raise InputError(pattern, error.problem) from error
        if not folders and all(one.role == "companion" for one in files):
            raise InputError(pattern, "found no images, .tar shards, Parquet or JSON")
        closed |= {folder.uri: folder for folder in folders}
        for one in files:
            place = f"{resolve(one.folder)}/{one.name}"
            earlier = found.get(place)
            if earlier is None:
                found[place] = one
            elif one.is_named and not earlier.is_named:
                found[place] = classify(earlier.file, earlier.folder, is_named=True)
    shards = [shard for group in _group_by_folder(found.values()) for shard in _build_shards(group)]
    shards = list(_name_uniquely(shards)) + list(closed.values())
    return [
        replace(
            shard,
            image_root=image_root,
            columns=columns,
            image_column=image_column,
            only_missing=only_missing,
        )
        for shard in shards
    ]


def _list_input(pattern: str) -> tuple[list[FoundFile], list[Shard]]:
    """The files of one input, and the folders in it that cannot be listed."""
    if not pattern.strip():
        raise InputError("--input", "found an empty text (an unset variable?), needed a place")
    uris = storage.expand(pattern)
    if not uris:
        raise InputError(pattern, "no file matches this pattern")
    fixed = _find_fixed_folder(pattern) if uris != [pattern] else None
    is_named = uris == [pattern] or _names_ending(pattern)
    files: list[FoundFile] = []
    closed: list[Shard] = []
    uris = list(dict.fromkeys(uris))
    with ThreadPoolExecutor(_READS) as pool:  # one request each
        found = list(pool.map(storage.stat, uris))
    for uri, file in zip(uris, found, strict=True):
        if file:
            folder = fixed or storage.parent(cut_query(file.uri))
            files.append(classify(file, folder, is_named))
        elif storage.is_folder(uri):
            tree = storage.list_tree(uri)
            folder = fixed or storage.absolute(uri)
            files += [classify(file, folder, is_named=False) for file in tree.files]
            closed += [_build_closed_folder(uri) for uri in tree.closed]
        else:
            raise InputError(uri, "no such file or folder")
    if uris != [pattern] and "/." not in pattern:  # as shells do, and as folders are listed
        files = [one for one in files if not _is_hidden(one.name)]
    return _leave_out_runs(pattern, files), closed


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") for part in name.split("/"))


def _find_fixed_folder(pattern: str) -> str | None:
    """The folder before a pattern's first wildcard; None if there is none."""
    first = min(at for mark in "*?[{" if (at := pattern.find(mark)) >= 0)
    folder, slash, _ = pattern[:first].rpartition("/")
    if folder.endswith(":/"):  # the mark stands in the name of a bucket or host
        return None
    return storage.absolute(folder or slash or ".")


def _names_ending(pattern: str) -> bool:
    """Whether a pattern says of which ending its files are, so that it means just these."""
    ending = storage.base_name(pattern).rpartition(".")[2]
    return "." in storage.base_name(pattern) and not any(mark in ending for mark in "*?[")


def _build_closed_folder(uri: str) -> Shard:
    return Shard("folder", uri, storage.base_name(uri), problem="cannot_be_listed")


def _leave_out_runs(pattern: str, files: list[FoundFile]) -> list[FoundFile]:
    """Leave out the output folders of runs: captions of captions nobody wants.

    Of a run in the folder of the input itself only its own files are left out.
    """
    plans = [f for f in files if storage.base_name(f.name) == PLAN_NAME and not f.is_named]
    runs = [storage.parent(one.file.uri) for one in plans if is_plan(one.file.uri)]
    if not runs:
        return files
    nested = tuple(f"{run}/" for run in runs if not any(one.folder == run for one in plans))
    own = tuple(f"{run}/" for run in runs if f"{run}/" not in nested)
    left = [one for one in files if one.is_named or not one.file.uri.startswith(nested)]
    left = [one for one in left if one.is_named or not _is_of_run(one.file.uri, own)]
    if all(one.role == "companion" for one in left):
        raise InputError(pattern, "holds the output of a run, and no images besides")
    return left


def _is_of_run(uri: str, runs: tuple[str, ...]) -> bool:
    return any(uri.startswith(run) and _OWN_FILES.fullmatch(uri, len(run)) for run in runs)


def _group_by_folder(found: Iterable[FoundFile]) -> list[list[FoundFile]]:
    groups: dict[str, list[FoundFile]] = {}
    for one in found:
        groups.setdefault(one.folder, []).append(one)
    return list(groups.values())


def _build_shards(group: list[FoundFile]) -> list[Shard]:
    """A shard of each container file of a folder, and of its loose images."""
    tables = _find_metadata(group)
    containers = [one for one in group if one.is_container and one.file.uri not in tables]
    loose = [one for one in group if not one.is_container]
    shards = [_build_container_shard(one) for one in containers]
    return shards + list(_build_loose_shards(loose, companions=len(tables)))


def _build_container_shard(one: FoundFile) -> Shard:
    problem = "unsupported_archive" if one.role == "archive" else None
    size, etag = one.file.size, one.file.etag
    return Shard(one.role, one.file.uri, _cut_ending(one), size, etag, problem=problem)


def _cut_ending(one: FoundFile) -> str:
    return one.name[: -len(one.ending)]


def _build_loose_shards(loose: list[FoundFile], companions: int) -> Iterator[Shard]:
    """Shards of the image files among `loose`: one, or several of a large folder."""
    images = sorted(
        (one for one in loose if one.role in ("image", "unknown")), key=lambda one: one.key
    )
    others = [one for one in loose if one.role == "companion"]
    texts = sorted((o for o in others if find_ending(o.name) in SIDECARS), key=lambda one: one.key)
    companions += len(others) - len(texts)
    for start in range(0, len(images), _MAX_FILES):
        part = images[start : start + _MAX_FILES]
        first, last = bisect_left(texts, part[0].key, key=lambda one: one.key), len(texts)
        if start + _MAX_FILES < len(images):
            last = bisect_left(texts, images[start + _MAX_FILES].key, key=lambda one: one.key)
        yield Shard(
            "files",
            part[0].folder,
            storage.base_name(part[0].folder),
            files=tuple(one.file for one in part if one.role == "image"),
            unknown=tuple(one.file for one in part if one.role == "unknown"),
            sidecars=tuple(one.file for one in texts[first:last]),
            companions=companions,
        )
        companions = 0


def _find_metadata(group: list[FoundFile]) -> set[str]:
    """URIs of the tables that describe the images beside them, and hold none.

    img2dataset writes one beside each tar or folder of images, of the same name (those beside tars
    are too many to open); imagefolder has a `metadata.parquet` in the folder. A table that the
    input names itself is none of these.
    """
    tables = [one for one in group if _is_table(one)]
    others = [one for one in group if not _is_table(one)]
    others = [one for one in others if one.is_container or one.role == "image"]
    if not tables or not others:
        return set()
    stems = {_cut_ending(one) for one in others if one.is_container}
    beside = {one.file.uri for one in tables if _cut_ending(one) in stems}
    left = [one.file.uri for one in tables if one.file.uri not in beside]
    with ThreadPoolExecutor(_READS) as pool:
        have_images = list(pool.map(_holds_images, left))
    return beside | {uri for uri, has in zip(left, have_images, strict=True) if not has}


def _is_table(one: FoundFile) -> bool:
    return one.role == "parquet" and not one.is_named


def _holds_images(uri: str) -> bool:
    """Whether a Parquet holds images; one that cannot be read counts, so that it is reported."""
    try:
        return holds_image_bytes(uri)
    except (StorageError, FileNotFoundError):
        return True


def _name_uniquely(shards: Iterable[Shard]) -> Iterator[Shard]:
    """Give shards of one name as many of their folders' names as tell them apart."""
    taken: set[str] = set()
    for shard in shards:
        if shard.kind == "files":
            yield shard
            continue
        name = next(name for name in list_shard_names(shard) if name not in taken)
        taken.add(name)
        yield replace(shard, name=name)


def list_shard_names(shard: Shard) -> Iterator[str]:
    """Names for a shard, from its own to its whole URI."""
    uri = cut_query(shard.uri)
    end = uri.rindex(f"/{shard.name}") + len(shard.name) + 1
    parts = uri[:end].split("/")
    for count in range(shard.name.count("/") + 1, len(parts) + 1):
        yield "/".join(parts[-count:])
    yield shard.uri
