"""Uploads captions and their data card to a dataset repository of the Hugging Face hub, in one
commit."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import httpx
from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi, get_token
from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, RepositoryNotFoundError

from s4v_core import storage
from s4v_core.captioning.data_card import CARD_NAMES, build_card, read_licences
from s4v_core.captioning.export.caption_files import CAPTION_WRITERS
from s4v_core.captioning.export.run_rows import RunRows
from s4v_core.errors import ConfigError, StorageError
from s4v_core.records.captions import CAPTIONS
from s4v_core.storage import Written

_URI = re.compile(r"hf://datasets/(?P<repository>[^/@\s]+/[^/@\s]+)/?(?P<path>[^@]*)")


def upload_captions(rows: RunRows, to: str) -> tuple[int, int]:
    """Upload the unit files as they are or, if `to` names a file, the export that its ending says,
    together with the data card.

    Returns:
        Rows and files written.

    Raises:
        ConfigError: There is no token, no such repository, or it holds a file of that name that was
            not written by this run.
        StorageError: The hub refuses or does not answer.
    """
    target = _Target.parse(rows, to)
    with TemporaryDirectory() as folder, _explain_refusals(target):
        head = target.api.repo_info(target.repository, repo_type="dataset").sha
        files, count = _collect_files(rows, target, Path(folder))
        leftovers = _check_leftovers(target, set(files))
        files[_choose_card_name(target)] = _write_card(rows, target, Path(folder))
        written = {path: storage.describe_content(file) for path, file in files.items()}
        target.place.add(written)
        operations: list[Any] = [
            CommitOperationAdd(path_in_repo=path, path_or_fileobj=str(file))
            for path, file in files.items()
        ]
        target.api.create_commit(
            target.repository,
            [*operations, *(CommitOperationDelete(path_in_repo=path) for path in leftovers)],
            commit_message=f"Captions of {count} images",
            repo_type="dataset",
            parent_commit=head,  # refused if somebody has changed the repository meanwhile
        )
    return count, len(files)


@dataclass(frozen=True, slots=True)
class _Target:
    """Where in which repository the captions go.

    Attributes:
        path: Path of the file, or of the folder with the unit files.
        writer: Ending of the file's name; None for a folder.
        place: Receipts of what this run has uploaded to the repository.
    """

    api: HfApi
    repository: str
    path: str
    writer: str | None
    place: storage.Receipts

    @classmethod
    def parse(cls, rows: RunRows, to: str) -> "_Target":
        found = _URI.fullmatch(to)
        if found is None:
            raise ConfigError(f"to: found {to!r}, allowed hf://datasets/ORG/NAME[/PATH]")
        if get_token() is None:
            raise ConfigError(
                "to: there is no token for the Hugging Face hub; run `hf auth login`, or set "
                "HF_TOKEN"
            )
        repository, path = found["repository"], found["path"].strip("/")
        writer = next((ending for ending in CAPTION_WRITERS if path.endswith(ending)), None)
        if writer is None:
            path = f"{path}/{CAPTIONS.folder}".lstrip("/")
        place = storage.Receipts(rows.output, f"hf://datasets/{repository}")
        return cls(HfApi(), repository, path, writer, place)

    @property
    def data_files(self) -> str:
        """Pattern of the files with rows, for the card."""
        return self.path if self.writer else f"{self.path}/*.parquet"

    def list_stored(self, paths: list[str]) -> dict[str, Any]:
        """The files of these names that the repository holds."""
        found = self.api.get_paths_info(self.repository, paths, repo_type="dataset")
        return {entry.path: entry for entry in found}

    def is_own(self, entry: Any) -> bool:
        """Whether this run uploaded a file that the repository holds, and nobody changed it."""
        if getattr(entry, "lfs", None):
            written = Written(int(entry.lfs.size), str(entry.lfs.sha256))
            return self.place.holds(entry.path, written)
        file = storage.stat(self.place.uri(entry.path))
        return file is not None and self.place.is_own(entry.path, file)


def _collect_files(rows: RunRows, target: _Target, folder: Path) -> tuple[dict[str, Path], int]:
    """Local files by their path in the repository, and the number of rows in them."""
    if target.writer:
        local = folder / f"export{target.writer}"
        with local.open("wb") as sink:
            count = CAPTION_WRITERS[target.writer](rows, sink)
        return {target.path: local}, count
    found = {}
    for unit in rows.done:
        local = storage.local_copy(rows.units.uri(unit), folder)
        found[f"{target.path}/{local.name}"] = local
    return found, rows.counts.done


def _check_leftovers(target: _Target, paths: set[str]) -> list[str]:
    """Files of an earlier upload that the new one does not hold.

    Raises:
        ConfigError: The repository holds a file in their place that is not of this run.
    """
    if target.writer:
        entries = list(target.list_stored([target.path]).values())
    else:
        entries = _list_folder(target)
    for entry in entries:
        if not target.is_own(entry):
            raise storage.refuse_overwriting(target.place.uri(entry.path))
    return [entry.path for entry in entries if entry.path not in paths]


def _list_folder(target: _Target) -> list[Any]:
    try:
        found = list(target.api.list_repo_tree(target.repository, target.path, repo_type="dataset"))
    except EntryNotFoundError:
        return []
    return [entry for entry in found if hasattr(entry, "size")]


def _choose_card_name(target: _Target) -> str:
    """README.md, unless somebody else has written that."""
    stored = target.list_stored(list(CARD_NAMES))
    for name in CARD_NAMES:
        if name not in stored or target.is_own(stored[name]):
            return name
    raise storage.refuse_overwriting(target.place.uri(CARD_NAMES[-1]))


def _write_card(rows: RunRows, target: _Target, folder: Path) -> Path:
    licences = read_licences(rows.output)
    card = build_card(rows.head, rows.counts, licences, target.data_files)
    file = folder / CARD_NAMES[0]
    file.write_text(card, "utf-8")
    return file


@contextmanager
def _explain_refusals(target: _Target) -> Iterator[None]:
    try:
        yield
    except RepositoryNotFoundError:
        raise ConfigError(
            f"to: the hub has no dataset {target.repository}, or its token may not see it; create "
            f"it with: hf repos create {target.repository} --repo-type dataset"
        ) from None
    except HfHubHTTPError as error:
        problem = error.server_message or str(error).strip().splitlines()[0]
        raise StorageError(target.place.place, f"the hub refuses: {problem}") from None
    except (httpx.HTTPError, OSError) as error:  # of the network
        raise StorageError(target.place.place, f"{type(error).__name__}: {error}") from None
