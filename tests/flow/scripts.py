"""Runs the entry scripts as processes, each with its own Ray."""

import os
import subprocess
import sys
import time
from pathlib import Path

import psutil

ROOT = Path(__file__).resolve().parents[2]
FAKE = ["--model", "none", "--engine", "fake"]


def start(script: str, *flags: str, cwd: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "ray_jobs" / script), *flags],
        cwd=cwd,
        env=os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a Ctrl-C meant for the script must not reach the tests
    )


def run(
    script: str, *flags: str, cwd: Path, limit_s: float = 240, **variables: str
) -> tuple[int, str, str]:
    process = start(script, *flags, cwd=cwd, **variables)
    out, err = process.communicate(timeout=limit_s)
    return process.returncode, out, err


def wait_for_units(
    output: Path, count: int, process: subprocess.Popen[str], limit_s: float = 120
) -> None:
    deadline = time.monotonic() + limit_s
    while len(list((output / "captions").glob("*.parquet"))) < count:
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def kill(driver: subprocess.Popen[str]) -> None:
    """Kill a driver with -9 and wait for its Ray, whose workers may still finish units. One that
    has ended by itself is left alone."""
    if driver.poll() is not None:
        driver.communicate()
        return
    family = psutil.Process(driver.pid).children(recursive=True)
    driver.kill()
    driver.communicate()
    psutil.wait_procs(family, 60)


def unit_times(output: Path) -> dict[str, int]:
    """The time at which each unit's file was written, in nanoseconds, by file name."""
    return {f.name: f.stat().st_mtime_ns for f in (output / "captions").glob("*.parquet")}


def engine_actors(driver: subprocess.Popen[str]) -> list[psutil.Process]:
    """List the engine actors' processes in the Ray that this driver started."""
    found = []
    for process in psutil.Process(driver.pid).children(recursive=True):
        try:
            if "EngineActor" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.NoSuchProcess:
            continue
    return found
