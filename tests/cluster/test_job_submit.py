"""The exact command of the README, on a cluster started by `ray start --head`."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from s4v_core.demo.scene_files import write_scenes
from s4v_core.demo.shipped import CAPTIONER
from tests.cluster.head import BIN, head_node
from tests.flow.oracle import check_rows

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root as the paper's recipe expects it."""
    folder = tmp_path_factory.mktemp("root")
    write_scenes(folder / "images", 12, per_shard=6)
    shutil.copytree(CAPTIONER, folder / "models" / "share-captioner")
    return folder


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[dict[str, str]]:
    with head_node(S4V_ROOT=str(root)) as variables:
        yield variables


def _submit(variables: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    command = [BIN / "ray", "job", "submit", *options, "--", "python", "ray_jobs/caption.py"]
    return subprocess.run(
        command, env=variables, capture_output=True, text=True, timeout=400, check=False
    )


def test_the_literal_command_captions_what_lies_below_the_root(
    cluster: dict[str, str], root: Path
) -> None:
    done = _submit(cluster)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = check_rows(root / "captions")
    assert len(rows) == 12
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row["engine"].startswith("vllm 0.32") for row in rows)
    again = _submit(cluster)
    assert again.returncode == 0
    assert "12 images were done before this run" in again.stdout


def test_without_the_root_one_sentence_says_what_to_set(cluster: dict[str, str]) -> None:
    done = _submit(cluster, "--runtime-env-json", '{"env_vars": {"S4V_ROOT": ""}}')
    assert done.returncode == 1  # Ray's own code for a job that failed
    assert "error: S4V_ROOT is not set; set it to the folder or bucket" in done.stdout
