"""Starts servers as users start them, each in its own processes, with their output in a log."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import psutil
import yaml

from serve.keys import make_key

START_LIMIT_S = 400


def free_port() -> int:
    """Find a port on which nothing listens now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def run_server(command: list[str], log: Path, ready: str, **variables: str) -> Iterator[int]:
    """Run a server during the block, once it answers at the URL `ready`; yield its process id."""
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, stdout=sink, stderr=sink, env=os.environ | variables, start_new_session=True
        )
    try:
        _wait_until_ready(process, log, ready)
        yield process.pid
    finally:
        _stop(process)


@contextmanager
def application(folder: Path, **settings: Any) -> Iterator[tuple[str, str]]:
    """Run `python -m serve` with fields of ServeConfig; yield its address and a key."""
    port = free_port()
    secret, line = make_key("benchmark")
    (folder / "keys").write_text(f"{line}\n")
    guard = {"keys_file": str(folder / "keys")}
    guard |= {"requests_per_minute": 10_000_000, "concurrent": 10_000}
    config = folder / "config.yaml"
    config.write_text(yaml.safe_dump({"applications": [{"args": {"guard": guard} | settings}]}))
    command = [sys.executable, "-m", "serve", "--config", str(config), "--port", str(port)]
    address = f"http://127.0.0.1:{port}"
    with run_server(command, folder / "application.log", f"{address}/readyz"):
        yield address, secret


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, ready: str) -> None:
    deadline = time.monotonic() + START_LIMIT_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            if httpx.get(ready).status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(1)
    raise TimeoutError(f"{ready}: no answer; the end of its log:\n{log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is not None:
        return
    family = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
    for child in family:
        if child.is_running():
            child.kill()
