"""Finds the shards that belong to the inputs of a job. Lists stores and opens no file.

An input is a folder, a glob or brace pattern, `.tar` shards, Parquet files, a ShareGPT4V/LLaVA
JSON, or single image files.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.storage import StoredFile

NOT_IMAGES = frozenset(
    [
        "cls",
        "csv",
        "db",
        "html",
        "idx",
        "index",
        "ini",
        "json",
        "jsonl",
        "lock",
        "log",
        "md",
        "npy",
        "npz",
        "parquet",
        "pickle",
        "pkl",
        "pth",
        "py",
        "sh",
        "toml",
        "tsv",
        "txt",
        "xml",
        "yaml",
        "yml",
    ]
)
"""Endings of files that accompany images. Any other file is taken for an image, and its content
decides whether it is one."""

SIDECARS = ("json", "txt")
"""Endings of the members and files whose text is kept with the image of the same key."""


@dataclass(frozen=True, slots=True)
class Shard:
    """An input file of many images, or the loose image files of one folder.

    Attributes:
        kind: tar, targz, parquet, json, list, or files.
        uri: URI of the file or folder.
        name: Start of the image ids: the file's path below the input, without its ending.
        size: Size of the file in bytes; 0 for a folder.
        etag: Version of the file; empty for a folder, whose `files` have their own.
        files: The image files of a folder.
        sidecars: The text files of a folder.
        image_root: Folder of the images that a JSON or a Parquet names.
        columns: Columns of a Parquet, or fields of a JSON's records, that are kept with each image
            as its sidecar.
        image_column: Column or field of the images of a table; by default it is found by its name.
    """

    kind: str
    uri: str
    name: str
    size: int = 0
    etag: str = ""
    files: tuple[StoredFile, ...] = ()
    sidecars: tuple[StoredFile, ...] = ()
    image_root: str | None = None
    columns: tuple[str, ...] = ()
    image_column: str | None = None

    @property
    def listing(self) -> list[str]:
        """One line for each file, which changes when the file does."""
        own = [f"{self.uri} {self.size} {self.etag}"] if self.etag else []
        return own + [f"{f.uri} {f.size} {f.etag}" for f in (*self.files, *self.sidecars)]


def find_shards(
    inputs: Sequence[str],
    image_root: str | None = None,
    columns: tuple[str, ...] = (),
    image_column: str | None = None,
) -> list[Shard]:
    """Find the shards of all inputs, in the given order, each once.

    Raises:
        InputError: An input does not exist or has nothing that could be an image.
    """
    image_root = image_root and storage.absolute(image_root)
    shards: dict[tuple[str, str], Shard] = {}
    for pattern in inputs:
        found: list[Shard] = []
        for uri in _expand(pattern):
            found += _list_shards(uri, _find_fixed_folder(pattern), image_root)
        if not found:
            raise InputError(pattern, "found no images, .tar shards, Parquet or JSON")
        for shard in _merge_folders(found):
            shards.setdefault(
                (shard.kind, shard.uri), replace(shard, columns=columns, image_column=image_column)
            )
    return list(shards.values())


def relative_name(uri: str, folder: str) -> str:
    """The path of `uri` relative to `folder`."""
    prefix = storage.absolute(folder).rstrip("/") + "/"
    return uri.removeprefix(prefix)


def find_ending(name: str) -> str:
    """The part of a file's name after its last dot, in lower case; empty if there is none."""
    stem, _, ending = storage.base_name(name).rpartition(".")
    return ending.lower() if stem else ""


def split_name(name: str) -> tuple[str, str]:
    """A file's key and ending (`sa_1.2.jpg` -> `sa_1.2`, `jpg`; `.hidden` has no ending)."""
    ending = find_ending(name)
    return name[: -len(ending) - 1] if ending else name, ending


def _expand(pattern: str) -> list[str]:
    uris = storage.expand(pattern)
    if not uris:
        raise InputError(pattern, "no file matches this pattern")
    return uris


def _find_fixed_folder(pattern: str) -> str | None:
    """The folder before a pattern's first wildcard; None if it has no wildcard."""
    places = [at for mark in "*?[{" if (at := pattern.find(mark)) >= 0]
    if not places:
        return None
    return storage.absolute(pattern[: min(places)].rpartition("/")[0] or ".")


def _list_shards(uri: str, folder: str | None, image_root: str | None) -> list[Shard]:
    file = storage.stat(uri)
    if file is not None:
        folder = folder or storage.parent(storage.absolute(uri))
        return _group_files([file], folder, image_root, is_named=True)
    if not storage.is_folder(uri):
        raise InputError(uri, "no such file or folder")
    return _group_files(storage.list_files(uri), storage.absolute(uri), image_root, is_named=False)


def _group_files(
    files: list[StoredFile], folder: str, image_root: str | None, is_named: bool
) -> list[Shard]:
    """Make one shard of each container file, and one of all loose images.

    Args:
        is_named: Whether the input names the files themselves, and not a folder of them.
    """
    found = [_build_container_shard(file, folder, image_root, is_named) for file in files]
    shards = [shard for shard in found if shard is not None]
    tables = _find_tar_tables(shards, folder)
    shards = [shard for shard in shards if shard.uri not in tables]
    taken = tables | {shard.uri for shard in shards}
    loose = [file for file in files if file.uri not in taken]
    return shards + _build_loose_shard(loose, folder, is_named)


def _build_container_shard(
    file: StoredFile, folder: str, image_root: str | None, is_named: bool
) -> Shard | None:
    """The shard of one container file; None if the file is none. A JSON that only lies in a folder
    is a sidecar."""
    name = relative_name(file.uri, folder)
    for kind, endings in _KINDS.items():
        ending = next((ending for ending in endings if name.lower().endswith(ending)), None)
        if ending and (kind not in ("json", "list") or is_named):
            stem = name[: -len(ending)]
            return Shard(kind, file.uri, stem, file.size, file.etag, image_root=image_root)
    return None


_KINDS = {
    "targz": (".tar.gz", ".tgz"),
    "tar": (".tar",),
    "parquet": (".parquet",),
    "json": (".json", ".jsonl", ".ndjson", ".json.gz", ".jsonl.gz"),
    "list": (".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz", ".txt.gz"),
}
"""Endings of the container files of each kind; the first match counts."""


def _find_tar_tables(shards: list[Shard], folder: str) -> set[str]:
    """URIs of the tables that img2dataset writes next to its tars: they hold metadata."""
    tars = [shard for shard in shards if shard.kind in ("tar", "targz")]
    return {storage.join(folder, f"{shard.name}.parquet") for shard in tars}


def _build_loose_shard(files: list[StoredFile], folder: str, is_named: bool) -> list[Shard]:
    """A shard of the image files among `files`, in a list that is empty if there are none."""
    images = tuple(f for f in files if is_named or find_ending(f.uri) not in NOT_IMAGES)
    if not images:
        return []
    texts = tuple(f for f in files if find_ending(f.uri) in SIDECARS and not is_named)
    return [Shard("files", folder, storage.base_name(folder), files=images, sidecars=texts)]


def _merge_folders(shards: Iterable[Shard]) -> list[Shard]:
    """Merge image files that a pattern names one by one into one shard per folder."""
    merged: dict[tuple[str, str], Shard] = {}
    for shard in shards:
        key = (shard.kind, shard.uri)
        if key in merged:
            earlier = merged[key]
            shard = Shard(
                "files",
                shard.uri,
                shard.name,
                files=earlier.files + shard.files,
                sidecars=earlier.sidecars + shard.sidecars,
            )
        merged[key] = shard
    return list(merged.values())
