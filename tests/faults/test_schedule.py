"""Random histories of commits, heals, lost answers and crashes: the invariants hold in each."""

import random
from collections.abc import Iterator
from typing import Any, ClassVar

import fsspec
import pyarrow as pa
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.records.captions import RESULT_SCHEMA, caption_units
from s4v_core.records.schemas import table_of

UNITS = 3
STEPS = 25


class FaultyStore(MemoryFileSystem):
    """A store that at random fails before a write, after it, or not at all."""

    protocol = "faulty"
    store: ClassVar[dict[str, Any]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    chance = random.Random(0)
    share = 0.3

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **kwargs: Any) -> None:
        draw = self.chance.random()
        if draw < self.share / 2:
            raise TimeoutError("nothing was written")
        super().pipe_file(path, value, mode=mode, **kwargs)
        if draw < self.share:
            raise TimeoutError("written, but the answer was lost")


@pytest.fixture
def store() -> Iterator[type[FaultyStore]]:
    fsspec.register_implementation("faulty", FaultyStore, clobber=True)
    yield FaultyStore
    FaultyStore.store.clear()


def _build_rows(writer: int) -> pa.Table:
    row = dict.fromkeys(RESULT_SCHEMA.names, "x") | {
        "status": "ok",
        "reason": None,
        "twin_of": None,
        "more_captions": None,
        "attempts": 1,
        "caption": f"{writer}",
        "created_at": 0,
    }
    numbers = ("prompt_tokens", "output_tokens", "thinking_tokens", "quality", "width", "height")
    return table_of([row | dict.fromkeys(numbers, 1)], RESULT_SCHEMA, "rows")


def _run_random_history(seed: int, store: type[FaultyStore]) -> int:
    """Run one random history and return how many of its commits failed."""
    store.store.clear()
    store.chance = chance = random.Random(seed)
    output = f"faulty://run-{seed}"
    durable: set[int] = set()
    first: dict[int, str] = {}
    failed = 0
    for step in range(STEPS):
        unit, heal = chance.randrange(UNITS), chance.random() < 0.2
        if heal and unit not in durable:
            continue
        try:
            caption_units(output).commit(unit, "plan", f"run-{step}", _build_rows(step), heal=heal)
            durable.add(unit)
        except StorageError:
            failed += 1
        done = caption_units(output).list_done()
        assert durable <= done, "a unit that was reported done is not there"
        durable = done
        for one in done:
            [caption] = caption_units(output).read(one)["caption"].to_pylist()
            if heal and one == unit:
                first[one] = caption
            assert first.setdefault(one, caption) == caption, "a first pass overwrote a result"
    return failed


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("histories", [100, pytest.param(2000, marks=pytest.mark.faults)])
def test_no_history_breaks_the_commit_rule(store: type[FaultyStore], histories: int) -> None:
    with storage.patience(0):
        assert sum(_run_random_history(seed, store) for seed in range(histories)) > 0
