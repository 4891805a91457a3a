"""A cluster made by `ray start --head`, with a token, on free ports."""

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

from serve.front.node_variables import NODE_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent


@contextlib.contextmanager
def head_node(cpus: int = 8, flags: Sequence[str] = (), **more: str) -> Iterator[dict[str, str]]:
    """Start a head node; yield the environment variables of its clients.

    `RAY_API_SERVER_ADDRESS` is where jobs are submitted, `METRICS` where Prometheus scrapes,
    `GCS` what a driver connects to, `LOGS` the folder of Ray's own logs, unless `flags` move
    it. At the end everything is killed with -9, as if the machine lost power.

    Args:
        cpus: Number of logical CPUs.
        flags: More flags of `ray start`.
        more: Environment variables of the node and its jobs.
    """
    port, dashboard, metrics = _free_port(), _free_port(), _free_port()
    folder = tempfile.mkdtemp(prefix="s4v")  # short: the sockets' paths have a limit
    variables = os.environ | {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_metrics_report_interval_ms": "1000",
        **NODE_VARIABLES,
        **more,
    }
    variables.pop("RAY_ADDRESS", None)
    head = subprocess.Popen(
        [
            *(
                BIN / "ray",
                "start",
                "--head",
                "--block",
                f"--num-cpus={cpus}",
                "--temp-dir",
                folder,
            ),
            *(f"--port={port}", f"--dashboard-port={dashboard}", "--dashboard-host=127.0.0.1"),
            *("--include-dashboard=true", f"--dashboard-agent-listen-port={_free_port()}"),
            *(f"--ray-client-server-port={_free_port()}", "--disable-usage-stats"),
            f"--metrics-export-port={metrics}",
            *flags,
        ],
        cwd=ROOT,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    variables["RAY_API_SERVER_ADDRESS"] = f"http://127.0.0.1:{dashboard}"
    variables["METRICS"] = f"http://127.0.0.1:{metrics}/metrics"
    variables["GCS"] = f"127.0.0.1:{port}"
    variables["LOGS"] = f"{folder}/session_latest/logs"
    deadline = time.monotonic() + 120
    try:
        while subprocess.run(
            [BIN / "ray", "job", "list"], env=variables, capture_output=True, check=False
        ).returncode:
            assert head.poll() is None
            assert time.monotonic() < deadline
            time.sleep(1)
        yield variables
    finally:
        # `ray start --block` waits for its children, and some of them ignore SIGTERM.
        family = [*psutil.Process(head.pid).children(recursive=True), psutil.Process(head.pid)]
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(family, 30)
        shutil.rmtree(folder, ignore_errors=True)


def driver_variables(variables: dict[str, str]) -> dict[str, str]:
    """Select from the variables of `head_node` those that let a driver join the cluster."""
    names = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN")
    return {name: variables[name] for name in names} | {"RAY_ADDRESS": variables["GCS"]}


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
