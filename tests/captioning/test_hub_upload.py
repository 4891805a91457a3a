"""Uploads to a dataset repository, against a small hub on a local port."""

import io
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.captioning.captioned_run import caption_inputs
from tests.captioning.fake_hub import REPOSITORY, FakeHub, run_hub
from tests.conftest import photo, write_tar

ROOT = Path(__file__).resolve().parents[2]
TO = f"hf://datasets/{REPOSITORY}"

Export = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    with run_hub() as hub:
        yield hub


@pytest.fixture
def export(hub: FakeHub, tmp_path: Path) -> Export:
    """Export the run in a process of its own, because the hub's address is read at import."""
    write_tar(tmp_path / "in" / "0.tar", {f"{n}.jpg": photo(n) for n in range(3)})
    caption_inputs(tmp_path / "out", tmp_path / "in", unit_size=2)

    def run(to: str = TO, token: str | None = "hf_secret") -> subprocess.CompletedProcess[str]:
        settings = {
            "HF_ENDPOINT": hub.address,
            "HF_HOME": f"{tmp_path}/hf",
            "HF_HUB_DISABLE_XET": "1",
        }
        env = {k: v for k, v in os.environ.items() if not k.startswith("HF_")} | settings
        env |= {"HF_TOKEN": token} if token else {}
        command = [sys.executable, "ray_jobs/export.py", f"{tmp_path}/out", "--to", to]
        return subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=120
        )

    return run


def test_units_and_card_are_uploaded_in_one_commit_and_again(hub: FakeHub, export: Export) -> None:
    done = export()
    assert done.returncode == 0, done.stderr
    assert "3 rows written" in done.stdout
    assert [set(paths) for paths in hub.commits] == [
        {"captions/unit-000000.parquet", "captions/unit-000001.parquet", "README.md"}
    ]
    table = pq.read_table(io.BytesIO(hub.files["captions/unit-000000.parquet"]))
    assert table["image_id"].to_pylist() == ["0/0", "0/1"]
    assert 'data_files: "captions/*.parquet"' in hub.files["README.md"].decode()
    before = dict(hub.files)
    assert export().returncode == 0  # all of it is ours
    assert hub.files == before


def test_one_file_is_uploaded_with_a_card_that_names_it(hub: FakeHub, export: Export) -> None:
    done = export(f"{TO}/v1/captions.json")
    assert done.returncode == 0, done.stderr
    assert set(hub.files) == {"v1/captions.json", "README.md"}
    assert 'data_files: "v1/captions.json"' in hub.files["README.md"].decode()


def test_files_of_others_stay_and_stop_an_upload(hub: FakeHub, export: Export) -> None:
    hub.files["README.md"] = b"mine"
    assert export().returncode == 0
    assert hub.files["README.md"] == b"mine"
    assert b"# Captions" in hub.files["DATA_CARD.md"]
    for path, data in (("captions/theirs.parquet", b"x"), ("captions/unit-000000.parquet", b"x")):
        before = {**hub.files, path: data}
        hub.files.clear()
        hub.files.update(before)
        done = export()
        assert done.returncode == 2
        assert f"{path} exists and was not written by this run" in done.stderr
        assert hub.files == before


@pytest.mark.parametrize(
    ("to", "token", "code", "sentence"),
    [
        (TO, None, 2, "there is no token for the Hugging Face hub"),
        ("hf://datasets/me/nothing", "hf_secret", 2, "the hub has no dataset me/nothing"),
        ("hf://me/captions", "hf_secret", 2, "allowed hf://datasets/ORG/NAME"),
        ("hf://datasets/alone", "hf_secret", 2, "allowed hf://datasets/ORG/NAME"),
    ],
)
def test_what_is_missing_is_said_in_one_sentence(
    hub: FakeHub, export: Export, to: str, token: str | None, code: int, sentence: str
) -> None:
    done = export(to, token)
    assert done.returncode == code
    assert sentence in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not hub.commits


def test_a_commit_of_somebody_else_meanwhile_is_not_lost(hub: FakeHub, export: Export) -> None:
    hub.moves_on = True
    done = export()
    assert done.returncode == 1
    assert "A commit has happened since" in done.stderr
    assert hub.files == {"theirs.txt": b"theirs"}


def test_images_of_a_dataset_on_the_hub_are_listed_and_read(hub: FakeHub, tmp_path: Path) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": photo(1), "b.jpg": photo(2)})
    hub.files["shards/0.tar"] = (tmp_path / "0.tar").read_bytes()
    hub.files["loose/c.jpg"] = photo(3)
    program = f"""
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.indexing import index_shard
from s4v_core.inputs.finding import find_shards
for shard in find_shards(["{TO}"]):
    rows = list(index_shard(shard)[0])
    for row, data in zip(rows, read_images(rows)):
        print(row["image_id"], len(data) if isinstance(data, bytes) else data)
"""
    env = os.environ | {"HF_ENDPOINT": hub.address, "HF_HOME": f"{tmp_path}/hf", "HF_TOKEN": "t"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=env,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == [
        f"loose/c.jpg {len(photo(3))}",
        f"shards/0/a {len(photo(1))}",
        f"shards/0/b {len(photo(2))}",
    ]
