"""The literal command of the README on a cluster that `ray start --head` made."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from s4v_core.demo.shards import write_scenes
from s4v_core.demo.shipped import CAPTIONER
from tests.flow.oracle import check_rows

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A storage root as the paper's recipe expects it."""
    folder = tmp_path_factory.mktemp("root")
    write_scenes(folder / "images", 12, per_shard=6)
    shutil.copytree(CAPTIONER, folder / "models" / "share-captioner")
    return folder


@pytest.fixture(scope="module")
def cluster(root: Path) -> Iterator[dict[str, str]]:
    """A head with a token, on ports of its own; gives the environment for talking to it."""
    port, dashboard = _free_port(), _free_port()
    folder = tempfile.mkdtemp(prefix="s4v")  # short: the sockets' paths have a limit
    variables = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "S4V_ROOT": str(root),
    }
    variables.pop("RAY_ADDRESS", None)
    head = subprocess.Popen(
        [
            *(BIN / "ray", "start", "--head", "--block", "--num-cpus=8", "--temp-dir", folder),
            *(f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
            *("--include-dashboard=true", f"--dashboard-agent-listen-port={_free_port()}"),
            *(f"--ray-client-server-port={_free_port()}", "--disable-usage-stats"),
        ],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    variables["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    deadline = time.monotonic() + 120
    while subprocess.run(
        [BIN / "ray", "job", "list"], env=variables, capture_output=True, check=False
    ).returncode:
        assert head.poll() is None
        assert time.monotonic() < deadline
        time.sleep(1)
    yield variables
    # --block waits for its children, which do not all heed SIGTERM.
    family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
    for process in family:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(family, 30)
    shutil.rmtree(folder, ignore_errors=True)


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
    assert all(row["engine"].startswith("vllm 0.31") for row in rows)
    again = _submit(cluster)
    assert again.returncode == 0
    assert "12 images were done before this run" in again.stdout


def test_without_the_root_one_sentence_says_what_to_set(cluster: dict[str, str]) -> None:
    done = _submit(cluster, "--runtime-env-json", '{"env_vars": {"S4V_ROOT": ""}}')
    assert done.returncode == 1  # Ray's own code for a job that failed
    assert "error: S4V_ROOT is not set; set it to the folder or bucket" in done.stdout
