"""A task other than captioning in the whole flow: killed during the run, then resumed."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.flow.scripts import ROOT, kill

SCRIPT = ROOT / "examples" / "count_words.py"
TEXTS, UNITS = 1000, 50


def _start(output: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(SCRIPT), str(output)],
        env=os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def _list_units(output: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (output / "counts").glob("*.parquet")}


def test_the_toy_task_survives_a_kill_and_has_every_row_once(tmp_path: Path) -> None:
    output = tmp_path / "out"
    first = _start(output)
    deadline = time.monotonic() + 120
    while len(_list_units(output)) < 5:
        assert first.poll() is None, first.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    kill(first)
    before = _list_units(output)
    assert 5 <= len(before) < UNITS

    second = _start(output)
    out, err = second.communicate(timeout=200)
    assert second.returncode == 0, err
    assert f"{TEXTS} of {TEXTS} texts (100.0 %): {TEXTS} ok" in out
    assert before.items() <= _list_units(output).items()

    rows = pa.concat_tables([pq.read_table(f) for f in (output / "counts").glob("*.parquet")])
    assert sorted(rows["text_id"].to_pylist()) == [f"{n:04d}" for n in range(TEXTS)]
    assert all(row["words"] == len(row["answer"].split()) for row in rows.to_pylist())
    accounts = [
        json.loads(pq.read_schema(file).metadata[b"s4v.unit"])
        for file in (output / "counts").glob("*.parquet")
    ]
    assert sum(account["words"] for account in accounts) == sum(rows["words"].to_pylist())

    again = _start(output)
    out, _ = again.communicate(timeout=120)
    assert again.returncode == 0
    assert f"{TEXTS} texts were done before this run, 0 done or redone by it" in out

    status = [sys.executable, str(ROOT / "ray_jobs" / "status.py"), str(output), "--verify"]
    done = subprocess.run(status, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert f"verified: {TEXTS} rows" in done.stdout


def test_the_toy_task_knows_nothing_of_captioning() -> None:
    imported = [
        node.module or ""
        for node in ast.walk(ast.parse(SCRIPT.read_text()))
        if isinstance(node, ast.ImportFrom)
    ]
    assert imported
    assert not [name for name in imported if "caption" in name]
