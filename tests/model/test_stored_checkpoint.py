"""Checkpoints in a store: facts are read without the weights, and a node fetches them once."""

import logging
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from s4v_core import storage
from s4v_core.checkpoints import SETTINGS, WEIGHTS, locate_checkpoint
from s4v_core.engines.choice import build_engine, choose_engine
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError, EngineError
from s4v_core.model.checkpoint_facts import read_facts
from tests.model.untrained import build_untrained

ALL = (*SETTINGS, *WEIGHTS)
ROOT = Path(__file__).resolve().parents[2]


class _Forbidden(MemoryFileSystem):
    """A store that lists its files but refuses to send them."""

    protocol = "forbidden"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its parent has it

    def get_file(self, *_: Any, **__: Any) -> None:
        raise PermissionError("Forbidden")


class _Unlisted(MemoryFileSystem):
    protocol = "unlisted"

    def ls(self, *_: Any, **__: Any) -> Any:
        raise PermissionError("Forbidden")


class _Vast(MemoryFileSystem):
    """A store that reports a size of one exbibyte for every file."""

    protocol = "vast"
    store: dict[str, Any] = {}  # noqa: RUF012 - as its parent has it

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        return [info | {"size": 1 << 60} for info in super().ls(path, detail=True)]


for fake in (_Forbidden, _Unlisted, _Vast):
    fsspec.register_implementation(fake.protocol, fake, clobber=True)


@pytest.fixture(autouse=True)
def scratch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("S4V_SCRATCH", str(tmp_path / "scratch"))
    return tmp_path / "scratch" / "checkpoints"


def _put(folder: Path, uri: str) -> str:
    for path in folder.iterdir():
        storage.replace(f"{uri}/{path.name}", path.read_bytes())
    return uri


@pytest.fixture
def stored(bucket: str, checkpoint: Path) -> str:
    """The untrained checkpoint in S3, next to files that do not belong to it."""
    storage.replace(f"{bucket}/models/untrained/optimizer.pt", b"not wanted")
    storage.replace(f"{bucket}/models/untrained/older/model.safetensors", b"not wanted")
    return _put(checkpoint, f"{bucket}/models/untrained")


def _same(one: Path, other: Path) -> bool:
    wanted = {path.name for path in other.iterdir()} - {"README.md"}
    return {path.name for path in one.iterdir()} == wanted and all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in wanted
    )


def test_facts_are_those_of_the_folder_and_need_no_weights(
    stored: str, checkpoint: Path, scratch: Path
) -> None:
    facts, here = read_facts(stored), read_facts(str(checkpoint))
    assert (facts.framing, facts.template) == (here.framing, here.template)
    assert facts.revision.startswith("etag:")
    assert list(scratch.rglob("config.json"))
    assert not list(scratch.rglob("*.safetensors"))
    shutil.rmtree(scratch)  # another node, another day
    assert read_facts(f"{stored}/").revision == facts.revision


def test_the_same_files_elsewhere_have_the_same_revision(
    stored: str, bucket: str, checkpoint: Path
) -> None:
    again = _put(checkpoint, f"{bucket}/models/copy")
    assert read_facts(again).revision == read_facts(stored).revision
    assert locate_checkpoint(again, ALL)[0] != locate_checkpoint(stored, ALL)[0]


def test_a_folder_by_its_uri_is_that_folder(checkpoint: Path) -> None:
    assert locate_checkpoint(f"file://{checkpoint}") == (checkpoint, None)
    assert read_facts(f"file://{checkpoint}") == read_facts(str(checkpoint))


def test_eight_that_ask_together_fetch_the_weights_once(
    stored: str, checkpoint: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "werkzeug"), ThreadPoolExecutor(8) as engines:
        found = list(engines.map(lambda _: locate_checkpoint(stored, ALL)[0], range(8)))
    asked = [line for line in caplog.messages if '"GET' in line and "model.safetensors" in line]
    assert len(asked) == 1
    assert len(set(found)) == 1
    assert _same(found[0], checkpoint)


def test_a_replaced_checkpoint_is_fetched_anew_and_refused_in_mid_run(
    stored: str, tmp_path: Path
) -> None:
    facts, old = read_facts(stored), locate_checkpoint(stored, ALL)[0]
    build_untrained(tmp_path / "new", seed=1)
    _put(tmp_path / "new", stored)  # the same names and sizes
    new, revision = locate_checkpoint(stored, ALL)
    assert revision == read_facts(stored).revision != facts.revision
    assert _same(new, tmp_path / "new")
    assert not _same(old, tmp_path / "new")
    settings = EngineSettings()
    spec = choose_engine("transformers", stored, "vicuna_v1", settings, facts.revision)
    with pytest.raises(ConfigError, match="replaced during the run"):
        build_engine(spec)


def test_a_copy_that_lost_a_file_is_fetched_anew(stored: str, checkpoint: Path) -> None:
    folder, _ = locate_checkpoint(stored, ALL)
    (folder / "model.safetensors").unlink()
    assert _same(locate_checkpoint(stored, ALL)[0], checkpoint)
    (folder / "config.json").write_text("{")
    assert _same(locate_checkpoint(stored, ALL)[0], checkpoint)


def test_a_fetch_that_was_killed_leaves_nothing_that_looks_whole(
    stored: str, checkpoint: Path, scratch: Path, tmp_path: Path
) -> None:
    (tmp_path / "counts").mkdir()
    code = f"from s4v_core import checkpoints; checkpoints.locate_checkpoint({stored!r}, {ALL!r})"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ
        | {"S4V_FAILPOINT": f"in_mirror:3:{tmp_path}/counts", "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=60,
    )
    assert done.returncode == -signal.SIGKILL
    assert [path.name[0] for path in scratch.iterdir()] == [".", "."]  # the lock, a part
    assert _same(locate_checkpoint(stored, ALL)[0], checkpoint)
    assert not list(scratch.glob(".*.partial"))


def test_an_engine_in_need_of_a_broken_checkpoint_names_its_place(
    stored: str, checkpoint: Path
) -> None:
    storage.replace(f"{stored}/model.safetensors", b"cut off")
    spec = choose_engine("transformers", stored, "vicuna_v1", EngineSettings())
    with pytest.raises(EngineError, match=f"cannot load {stored}"):
        build_engine(spec)


def _nothing(bucket: str, _: Path) -> str:
    return f"{bucket}/nothing"


def _no_bucket(_: str, __: Path) -> str:
    return "s3://there-is-no-such-bucket/model"


def _images(bucket: str, _: Path) -> str:
    storage.replace(f"{bucket}/images/1.jpg", b"...")
    return f"{bucket}/images"


def _one_file(bucket: str, checkpoint: Path) -> str:
    return _put(checkpoint, f"{bucket}/model") + "/config.json"


def _settings_alone(bucket: str, checkpoint: Path) -> str:
    storage.replace(f"{bucket}/model/config.json", (checkpoint / "config.json").read_bytes())
    return f"{bucket}/model"


@pytest.mark.parametrize(
    ("place", "sentence"),
    [
        (_nothing, "no such folder"),
        (_no_bucket, "no such folder"),
        (_images, "holds no config.json"),
        (_one_file, "holds no config.json|no such folder"),
        (_settings_alone, r"holds no \*.safetensors"),
        (lambda *_: "unlisted://model", r"cannot be read \(PermissionError: Forbidden\)"),
        (lambda _, c: _put(c, "forbidden://model"), "cannot be read .*PermissionError: Forbidden"),
        (lambda _, c: _put(c, "vast://model"), "GiB, found .* free"),
        (lambda *_: "nowhere://model", "cannot be read .*nowhere"),
    ],
    ids=["nothing", "bucket", "images", "file", "settings", "list", "get", "disk", "scheme"],
)
def test_an_unusable_checkpoint_is_refused_in_one_sentence(
    place: Callable[[str, Path], str], sentence: str, bucket: str, checkpoint: Path, scratch: Path
) -> None:
    started = time.monotonic()
    with pytest.raises(ConfigError, match=sentence) as refusal:
        read_facts(place(bucket, checkpoint))
    assert time.monotonic() - started < 10
    assert "\n" not in str(refusal.value)
    assert not list(scratch.rglob("*.json"))
