"""Inputs as people name them -> shards to index. Lists stores, opens nothing.

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
"""Endings of files that accompany images. Anything else counts: content decides, not the name."""

SIDECARS = ("json", "txt")
"""Endings of the members and files whose text is kept with the image of the same key."""


@dataclass(frozen=True, slots=True)
class Shard:
    """An input file of many images, or the loose image files of one folder.

    Attributes:
        kind: tar, targz, parquet, json, or files.
        uri: The file, or the folder.
        name: What image ids start with (tar: the file's name without ending; Parquet the same).
        etag, size: Of the file; empty for a folder, whose `files` have their own.
        files: The image files of a folder.
        sidecars: Text files of a folder.
        image_root: Where the images of a JSON or of a Parquet with URIs lie.
        columns: Of a Parquet or of a JSON's records, kept with each image as its sidecar.
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

    @property
    def listing(self) -> list[str]:
        """One line per file, which changes when the file does."""
        own = [f"{self.uri} {self.size} {self.etag}"] if self.etag else []
        return own + [f"{f.uri} {f.size} {f.etag}" for f in (*self.files, *self.sidecars)]


def find_shards(
    inputs: Sequence[str], image_root: str | None = None, columns: tuple[str, ...] = ()
) -> list[Shard]:
    """All shards of all inputs, in the order given, each once.

    Raises:
        InputError: An input does not exist or holds nothing that could be an image.
    """
    image_root = image_root and storage.absolute(image_root)
    shards: dict[tuple[str, str], Shard] = {}
    for pattern in inputs:
        found: list[Shard] = []
        for uri in _expanded(pattern):
            found += _shards_at(uri, _fixed_folder(pattern), image_root)
        if not found:
            raise InputError(pattern, "found no images, .tar shards, Parquet or JSON")
        for shard in _merged(found):
            shards.setdefault((shard.kind, shard.uri), replace(shard, columns=columns))
    return list(shards.values())


def relative_name(uri: str, folder: str) -> str:
    """`uri` as seen from `folder`."""
    prefix = storage.absolute(folder).rstrip("/") + "/"
    return uri.removeprefix(prefix)


def ending(name: str) -> str:
    """What follows the last dot of a file's name, in lower case; empty where there is none."""
    stem, _, end = storage.base_name(name).rpartition(".")
    return end.lower() if stem else ""


def _expanded(pattern: str) -> list[str]:
    uris = storage.expand(pattern)
    if not uris:
        raise InputError(pattern, "no file matches this pattern")
    return uris


def _fixed_folder(pattern: str) -> str | None:
    """The folder in front of a pattern's first wildcard; None where there is none."""
    places = [at for mark in "*?[{" if (at := pattern.find(mark)) >= 0]
    if not places:
        return None
    return storage.absolute(pattern[: min(places)].rpartition("/")[0] or ".")


def _shards_at(uri: str, folder: str | None, image_root: str | None) -> list[Shard]:
    file = storage.stat(uri)
    if file is not None:
        folder = folder or storage.parent(storage.absolute(uri))
        return _shards_of([file], folder, image_root, named=True)
    if not storage.is_folder(uri):
        raise InputError(uri, "no such file or folder")
    return _shards_of(storage.list_files(uri), storage.absolute(uri), image_root, named=False)


def _shards_of(
    files: list[StoredFile], folder: str, image_root: str | None, named: bool
) -> list[Shard]:
    shards = [s for f in files if (s := _shard_file(f, folder, image_root, named)) is not None]
    # img2dataset puts a table of the same name beside each tar: metadata, not images.
    tables = {
        storage.join(folder, f"{s.name}.parquet") for s in shards if s.kind in ("tar", "targz")
    }
    shards = [s for s in shards if s.uri not in tables]
    taken = tables | {shard.uri for shard in shards}
    loose = [f for f in files if f.uri not in taken]
    images = tuple(f for f in loose if named or ending(f.uri) not in NOT_IMAGES)
    if images:
        texts = tuple(f for f in loose if ending(f.uri) in SIDECARS and not named)
        name = storage.base_name(folder)
        shards.append(Shard("files", folder, name, files=images, sidecars=texts))
    return shards


def _shard_file(file: StoredFile, folder: str, image_root: str | None, named: bool) -> Shard | None:
    """The shard that one file is by itself. A JSON that only lies in a folder is a sidecar."""
    name = relative_name(file.uri, folder)
    for kind, endings in _KINDS.items():
        for one in endings:
            if name.lower().endswith(one) and (kind != "json" or named):
                stem = name[: -len(one)]
                return Shard(kind, file.uri, stem, file.size, file.etag, image_root=image_root)
    return None


_KINDS = {
    "targz": (".tar.gz", ".tgz"),
    "tar": (".tar",),
    "parquet": (".parquet",),
    "json": (".json", ".jsonl"),
}


def _merged(shards: Iterable[Shard]) -> list[Shard]:
    """Image files named one by one (a glob) become one shard per folder."""
    merged: dict[tuple[str, str], Shard] = {}
    for shard in shards:
        key = (shard.kind, shard.uri)
        if key in merged:
            both = merged[key]
            shard = Shard(
                "files",
                shard.uri,
                shard.name,
                files=both.files + shard.files,
                sidecars=both.sidecars + shard.sidecars,
            )
        merged[key] = shard
    return list(merged.values())
