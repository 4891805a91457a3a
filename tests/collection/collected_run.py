"""Runs collect.py as a process against teachers in processes of their own."""

import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.collection.teacher_server import Faults
from tests.conftest import photo
from tests.flow.scripts import ROOT, start

FOLDERS = {
    "coco": "coco/train2017",
    "lcs": "llava/llava_pretrain/images/00000",
    "sam": "sam/images",
    "textcaps": "share_textvqa/images",
    "wikiart": "wikiart/images",
    "landmark": "web-landmark/images",
    "celebrity": "web-celebrity/images",
    "other": "holiday",
}
"""A folder of ShareGPT4V's data tree for each source, and one that is none of them."""

INPUT_PRICE, OUTPUT_PRICE = 2.5, 10.0


@dataclass
class TeacherProcess:
    url: str
    log: Path

    def read_log(self) -> list[dict[str, Any]]:
        if not self.log.exists():
            return []
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def list_arrivals(self) -> list[float]:
        return sorted(one["at"] for one in self.read_log() if one["event"] == "request")

    def count_paid(self) -> Counter[str]:
        """Answers that were charged, by picture."""
        return Counter(one["picture"] for one in self.read_log() if one["event"] == "paid")


@contextmanager
def open_teacher(folder: Path, faults: Faults | None = None) -> Iterator[TeacherProcess]:
    folder.mkdir(parents=True, exist_ok=True)
    port_file, log = folder / "port", folder / "log.jsonl"
    command = [sys.executable, "-m", "tests.collection.teacher_server", str(port_file), str(log)]
    command.append(json.dumps(asdict(faults or Faults())))
    process = subprocess.Popen(command, cwd=ROOT)
    try:
        deadline = time.monotonic() + 60
        while not port_file.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.05)
        yield TeacherProcess(f"http://127.0.0.1:{port_file.read_text()}/v1", log)
    finally:
        process.kill()
        process.wait()
        port_file.unlink(missing_ok=True)


def write_images(root: Path, count: int) -> Path:
    """Small drawn photographs over all sources, each another one."""
    places = [root / folder for folder in FOLDERS.values()]
    for number in range(count):
        place = places[number % len(places)]
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{number:06d}.jpg").write_bytes(photo(number, (96, 72)))
    return root


def list_flags(images: Path, output: Path, urls: Sequence[str], *more: str) -> list[str]:
    flags = ["--input", str(images), "--output", str(output), "--model", "teacher"]
    for url in urls:
        flags += ["--endpoint.url", url]
    flags += ["--budget.input-price", str(INPUT_PRICE), "--budget.output-price", str(OUTPUT_PRICE)]
    return [*flags, *more]


def collect(cwd: Path, flags: list[str], limit_s: float = 280, **env: str) -> tuple[int, str, str]:
    process = start("collect.py", *flags, cwd=cwd, **env)
    try:
        out, err = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        raise
    return process.returncode, out, err


def read_rows(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "captions").glob("*.parquet"))
    if not files:
        return []
    rows: list[dict[str, Any]] = pa.concat_tables(map(pq.read_table, files)).to_pylist()
    return rows


def check_ids(output: Path, count: int) -> list[dict[str, Any]]:
    """The rows of a run that is done: every image has exactly one."""
    rows = read_rows(output)
    ids = [row["image_id"] for row in rows]
    assert len(ids) == len(set(ids)) == count
    assert sorted(int(Path(one).stem) for one in ids) == list(range(count))
    return rows


def find_busiest(arrivals: Sequence[float], window_s: float = 60.0) -> int:
    """Most requests that arrived within any window of so many seconds."""
    most, first = 0, 0
    for last, at in enumerate(arrivals):
        while at - arrivals[first] >= window_s:
            first += 1
        most = max(most, last - first + 1)
    return most
