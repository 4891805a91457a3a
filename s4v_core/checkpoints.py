"""Finds the files of a checkpoint in a local folder, in a folder of any store, or on the hub.

Fetches them to this node if needed. It does not interpret their contents.
"""

import errno
import hashlib
from collections.abc import Collection, Sequence
from fnmatch import fnmatch
from pathlib import Path

import httpx
from huggingface_hub import snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from s4v_core import storage
from s4v_core.environment import find_scratch_folder
from s4v_core.errors import ConfigError, StorageError
from s4v_core.storage import StoredFile

SETTINGS = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
"""Names of the files that describe a checkpoint, its tokenizer included."""

WEIGHTS = ("*.safetensors",)
"""Names of the files that are also needed to load it."""

ADAPTER = ("adapter_config.json", "adapter_model.safetensors")
"""Names of the files of a LoRA adapter."""

_HUB_EXTRAS = ("*.model", "*.model.v*", "*.tiktoken")
"""Further names of tokenizer files; on the hub, where a pattern costs no listing."""

_OLD_WEIGHTS = ("*.bin",)
"""Weights of a hub model that has no others."""

_UNFINISHED_GGUF = (
    "GGUF files hold no vision part that an engine here could load; name the checkpoint that it "
    "was made from, or serve it elsewhere and use --engine openai"
)

_CACHE = "checkpoints"
"""Folder of fetched checkpoints in a node's scratch space. Nothing is deleted from it: another
engine may be loading from a copy that seems old."""

_HASHED_WHOLE_BYTES = 64 << 20
"""Files up to this size are hashed whole; of a larger one, only the first and the last MiB."""


def locate_checkpoint(
    model: str, patterns: tuple[str, ...] = SETTINGS, revision: str | None = None
) -> tuple[Path, str | None]:
    """Find a checkpoint, fetch its files to this node if needed, and return folder and revision.

    The revision is the commit of a hub model, and None for a local folder (see `fingerprint`). For
    a folder in a store it is a hash of names, sizes and etags: it is the same on every node, as
    long as nobody writes the files again. If a store has no etags, the time of writing is used.

    Args:
        model: Folder, URI, or hub id; org/name@revision names a branch, tag or commit.
        patterns: Names of the files to fetch. A store's are fetched once per node and revision.
        revision: Expected revision of a folder in a store; None accepts any. Of a hub model, the
            branch, tag or commit to take; None takes the one in its name, or the main branch.

    Raises:
        ConfigError: There is no such checkpoint, it cannot be read, there is no room for it, or it
            has another revision than `revision`.
        UnreachableError: Its store does not answer.
    """
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder, None
    if is_uri(model):
        return _fetch_from_store(model, patterns, revision)
    if model.lower().endswith(".gguf"):
        raise ConfigError(f"model: {model} is a GGUF file; {_UNFINISHED_GGUF}")
    if folder.is_file():
        raise ConfigError(f"model: {model} is a file; name the folder of a checkpoint")
    if not is_hub_id(model):
        raise ConfigError(f"model: no such folder: {model}")
    name, at = split_revision(model)
    if ":" in name:
        raise ConfigError(
            f"model: {model} names a GGUF quantization of a hub model; {_UNFINISHED_GGUF}"
        )
    found = _fetch_from_hub(name, (*patterns, *_HUB_EXTRAS), revision or at)
    if set(WEIGHTS) <= set(patterns) and not any(found.glob(WEIGHTS[0])):
        _fetch_from_hub(name, _OLD_WEIGHTS, found.name)
    return found, found.name


def locate_adapter(adapter: str, revision: str | None = None) -> tuple[Path, str]:
    """Find a LoRA adapter, fetch its files to this node if needed, and return folder and revision.

    Args:
        revision: Expected revision; None accepts any.

    Raises:
        ConfigError: There is no such adapter, or it has another revision.
        UnreachableError: Its store does not answer.
    """
    try:
        folder, found = locate_checkpoint(adapter, ADAPTER)
    except ConfigError as error:
        problem = str(error).removeprefix("model: ")
        raise ConfigError(f"settings.adapter: {problem}") from None
    if not (folder / ADAPTER[0]).is_file():
        raise ConfigError(
            f"settings.adapter: {adapter} holds no {ADAPTER[0]}; name the folder or hub id of a "
            "LoRA adapter"
        )
    found = found or fingerprint(folder)
    if revision not in (None, found):
        raise ConfigError(
            f"settings.adapter: {adapter} was replaced during the run (found {found}, expected "
            f"{revision}); start a new run, with another --output"
        )
    return folder, found


def is_hub_id(model: str) -> bool:
    """Whether `model` has the form of a hub id, and is no folder here."""
    if is_uri(model) or model.startswith(("/", ".", "~")) or Path(model).is_dir():
        return False
    return split_revision(model)[0].count("/") == 1


def split_revision(model: str) -> tuple[str, str | None]:
    """Name and revision of a hub id: org/name@revision."""
    name, _, revision = model.partition("@")
    return name, revision or None


def is_uri(model: str) -> bool:
    """Whether `model` names a folder of a store, which checkpoint loaders cannot open."""
    return "://" in model


def fingerprint(folder: Path) -> str:
    """Hash of names, sizes and contents; of large files only the first and last MiB are hashed."""
    whole = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not p.name.startswith(".")):
        size = path.stat().st_size
        whole.update(f"{path.name} {size}\n".encode())
        with path.open("rb") as file:
            if size <= _HASHED_WHOLE_BYTES:
                whole.update(file.read())
            else:
                whole.update(file.read(1 << 20))
                file.seek(size - (1 << 20))
                whole.update(file.read())
    return "sha256:" + whole.hexdigest()[:16]


def refuse_other_kinds(model: str, names: Collection[str]) -> None:
    """Refuse a folder that holds something else than a checkpoint.

    Args:
        names: Names of the files in it.

    Raises:
        ConfigError: It holds an adapter alone, a pipeline of diffusers or GGUF files.
    """
    if "config.json" in names:
        return
    if ADAPTER[0] in names:
        raise ConfigError(
            f"model: {model} holds an adapter alone; name the model that it adapts, and give the "
            "adapter with --settings.adapter, or merge both first: "
            f"python ray_jobs/convert.py {model} DST --base MODEL"
        )
    if "model_index.json" in names:
        raise ConfigError(
            f"model: {model} holds a pipeline of diffusers, which draws images and does not "
            "describe them; name a vision language model"
        )
    if any(name.lower().endswith(".gguf") for name in names):
        raise ConfigError(f"model: {model} holds GGUF files; {_UNFINISHED_GGUF}")


def _fetch_from_hub(name: str, patterns: tuple[str, ...], revision: str | None) -> Path:
    """Fetch files of a hub model; without a network, those that were fetched before."""
    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=list(patterns)))
    except (httpx.HTTPError, OSError, HFValidationError) as error:
        raise ConfigError(f"model: {_explain_hub_error(name, revision, error)}") from None


def _explain_hub_error(name: str, revision: str | None, error: Exception) -> str:
    if isinstance(error, GatedRepoError):
        return (
            f"{name} is gated on the hub; accept its terms on its page there, and set HF_TOKEN to "
            "a token of that account"
        )
    if isinstance(error, RevisionNotFoundError):
        return f"{name} has no revision {revision!r} on the hub; name a branch, tag or commit"
    if isinstance(error, HFValidationError):
        return f"{name!r} is neither a folder here nor the id of a hub model"
    if isinstance(error, RepositoryNotFoundError) or _is_refused(error):
        return (
            f"{name} is neither a folder here nor a model that the hub gives out: it does not "
            "exist there, or is private and HF_TOKEN holds no token that may read it"
        )
    if isinstance(error, OfflineModeIsEnabled) or isinstance(error.__cause__, OfflineModeIsEnabled):
        return (
            f"{name} is neither a folder here nor wholly in the cache of hub models, and "
            "HF_HUB_OFFLINE forbids to fetch it"
        )
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return f"no room for {name} in the cache of hub models; make room, or set HF_HOME"
    return (
        f"{name} is neither a folder here nor wholly in the cache of hub models, and the hub does "
        "not answer; try again later, or name a folder"
    )


def _is_refused(error: Exception) -> bool:
    response = getattr(error, "response", None)
    return response is not None and response.status_code in (401, 403)


def _fetch_from_store(
    uri: str, patterns: tuple[str, ...], revision: str | None
) -> tuple[Path, str | None]:
    try:
        if storage.is_local(uri):  # file://
            return locate_checkpoint(storage.absolute(uri), patterns)
        listed = storage.list_folder(uri)
        is_adapter = patterns == ADAPTER
        files = (
            [f for f in listed if _matches(f, ADAPTER)]
            if is_adapter
            else _select_files(uri, listed)
        )
        found = f"etag:{_digest(files)}"
        if revision not in (None, found):
            raise ConfigError(
                f"model: {uri} was replaced during the run (found {found}, expected {revision}); "
                "start a new run, with another --output"
            )
        wanted = [file for file in files if _matches(file, patterns)]
        # The URI is hashed into the name, because an etag is only meaningful within one store.
        name = f"{storage.base_name(uri)}-{_digest(wanted, uri.rstrip('/'))}"
        return storage.mirror(wanted, find_scratch_folder(_CACHE) / name), found
    except FileNotFoundError:
        raise ConfigError(f"model: no such folder: {uri}") from None
    except storage.UnreachableError:
        raise
    except StorageError as error:
        problem = error.problem if error.uri == uri else error
        raise ConfigError(f"model: {uri} cannot be read ({problem})") from error


def _select_files(uri: str, files: Sequence[StoredFile]) -> list[StoredFile]:
    """Select the files that belong to a checkpoint; refuse a folder without config or weights."""
    names = {storage.base_name(file.uri) for file in files}
    refuse_other_kinds(uri, names)
    if "config.json" not in names:
        raise ConfigError(f"model: {uri} holds no config.json; name the folder of a checkpoint")
    if not any(_matches(file, WEIGHTS) for file in files):
        raise ConfigError(
            f"model: {uri} holds no {WEIGHTS[0]}; ray_jobs/convert.py writes such checkpoints"
        )
    return [file for file in files if _matches(file, (*SETTINGS, *WEIGHTS))]


def _matches(file: StoredFile, patterns: tuple[str, ...]) -> bool:
    return any(fnmatch(storage.base_name(file.uri), pattern) for pattern in patterns)


def _digest(files: Sequence[StoredFile], uri: str = "") -> str:
    lines = [f"{storage.base_name(file.uri)} {file.size} {file.etag}\n" for file in files]
    return hashlib.sha256("".join([uri, *lines]).encode()).hexdigest()[:16]
