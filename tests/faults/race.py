"""Sixteen writers that commit the same unit at the same moment, on any store."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa

from s4v_core.records.captions import RESULT_SCHEMA, caption_units
from s4v_core.records.schemas import table_of

WRITERS = 16


def rows_of_writer(writer: int) -> pa.Table:
    """Build a unit with one row, whose caption names the writer."""
    row = dict.fromkeys(RESULT_SCHEMA.names) | {
        "image_id": "a",
        "uri": "a",
        "source": "a",
        "caption": f"by writer {writer}",
        "status": "ok",
        "attempts": 1,
        "prompt": "What?",
        "model": "none",
        "model_revision": "1",
        "engine": "fake",
        "sampling": "{}",
        "run_id": f"run-{writer}",
        "created_at": 0,
    }
    return table_of([row], RESULT_SCHEMA, "rows")


def race(output: str, unit: int) -> list[bool]:
    """Let sixteen runs commit the same unit at the same moment; True for each that wrote it."""
    gate = threading.Barrier(WRITERS)

    def commit(writer: int) -> bool:
        rows = rows_of_writer(writer)
        gate.wait()
        account, wrote = caption_units(output).commit(unit, "plan", f"run-{writer}", rows)
        assert account.rows == 1
        return wrote

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(commit, range(WRITERS)))


def prove_one_winner(output: str, unit: int) -> None:
    """Check that exactly one of sixteen writers wrote, and that readers see its row."""
    wrote = race(output, unit)
    assert wrote.count(True) == 1
    winner = wrote.index(True)
    assert caption_units(output).read(unit)["caption"].to_pylist() == [f"by writer {winner}"]
