"""Where the files of a checkpoint are: in a folder, in a folder of any store, or on the hub.

Brings them to this node where they are not. Knows nothing of what they say.
"""

import hashlib
from collections.abc import Sequence
from fnmatch import fnmatch
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from s4v_core import storage
from s4v_core.errors import ConfigError, StorageError
from s4v_core.places import scratch_folder
from s4v_core.storage import StoredFile

SETTINGS = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
"""Files of a checkpoint that say what it is, its tokenizer among them."""

WEIGHTS = ("*.safetensors",)
"""Files that are needed besides to load it."""

CACHE = "checkpoints"
"""Folder of fetched checkpoints in a node's scratch space. Nothing is taken out of it: another
engine may be loading from what seems old."""

_SMALL = 64 << 20


def locate(
    model: str, patterns: tuple[str, ...] = SETTINGS, revision: str | None = None
) -> tuple[Path, str | None]:
    """The folder of a checkpoint on this node, and what its files are known by elsewhere.

    That is the commit of a hub model, None of a folder here (see `fingerprint`), and of a folder in
    a store a hash of names, sizes and etags: the same wherever it is read, as long as nobody writes
    the files anew. A store that gives no etags is asked for the time of writing instead.

    Args:
        patterns: Files to bring here. Those of a store are fetched once per node and revision.
        revision: Of a folder in a store, where only the files that were looked at before will do.

    Raises:
        ConfigError: There is no such checkpoint, it cannot be read, there is no room for it, or it
            is another one than `revision`.
        UnreachableError: Its store does not answer.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, None
    if is_uri(model):
        return _from_store(model, patterns, revision)
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise ConfigError(f"model: no such folder: {model}")
    try:
        found = Path(snapshot_download(model, allow_patterns=list(patterns)))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError):
        raise ConfigError(
            f"model: {model} is neither a folder here nor a model that the hub gives out"
        ) from None
    return found, found.name


def is_uri(model: str) -> bool:
    """Whether `model` names a folder of a store, which loaders of checkpoints do not understand."""
    return "://" in model


def fingerprint(folder: Path) -> str:
    """Hash of names, sizes and contents; of large files the first and last MiB stand for all."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        whole.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _SMALL:
                whole.update(file.read())
            else:
                whole.update(file.read(1 << 20))
                file.seek(size - (1 << 20))
                whole.update(file.read())
    return "sha256:" + whole.hexdigest()[:16]


def _from_store(
    uri: str, patterns: tuple[str, ...], revision: str | None
) -> tuple[Path, str | None]:
    try:
        if storage.is_local(uri):  # file://
            return locate(storage.absolute(uri), patterns)
        files = _checked(uri, storage.list_folder(uri))
        found = f"etag:{_digest(files)}"
        if revision not in (None, found):
            raise ConfigError(
                f"model: {uri} was replaced during the run (found {found}, expected {revision}); "
                "start a new run, with another --output"
            )
        wanted = [file for file in files if _matches(file, patterns)]
        # The place is a part of the name, too: etags are only as good as the store that gives them.
        name = f"{storage.base_name(uri)}-{_digest(wanted, uri.rstrip('/'))}"
        return storage.mirror(wanted, scratch_folder(CACHE) / name), found
    except FileNotFoundError:
        raise ConfigError(f"model: no such folder: {uri}") from None
    except storage.UnreachableError:
        raise
    except StorageError as error:
        problem = error.problem if error.uri == uri else error
        raise ConfigError(f"model: {uri} cannot be read ({problem})") from error


def _checked(uri: str, files: Sequence[StoredFile]) -> list[StoredFile]:
    """The files that make up a checkpoint, of all that lie there."""
    names = {storage.base_name(file.uri) for file in files}
    if "config.json" not in names:
        raise ConfigError(f"model: {uri} holds no config.json; name the folder of a checkpoint")
    if not any(_matches(file, WEIGHTS) for file in files):
        raise ConfigError(
            f"model: {uri} holds no {WEIGHTS[0]}; ray_jobs/convert.py writes such checkpoints"
        )
    return [file for file in files if _matches(file, (*SETTINGS, *WEIGHTS))]


def _matches(file: StoredFile, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(storage.base_name(file.uri), pattern) for pattern in patterns)


def _digest(files: Sequence[StoredFile], place: str = "") -> str:
    lines = [f"{storage.base_name(file.uri)} {file.size} {file.etag}\n" for file in files]
    return hashlib.sha256("".join([place, *lines]).encode()).hexdigest()[:16]
