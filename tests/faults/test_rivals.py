"""Several writers at once: one wins, and no row is doubled or lost."""

import logging
import math
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import s3fs

from s4v_core import storage
from s4v_core.flow.spec import UNITS_IN_FLIGHT
from s4v_core.records.captions import caption_units
from tests.faults.proxy import FaultProxy
from tests.faults.race import prove_one_winner, race, rows_of_writer
from tests.faults.world import LARGE_UNIT, LARGE_UNITS, World, build_world
from tests.flow.scripts import FAKE, start

pytestmark = pytest.mark.timeout(900)

log = logging.getLogger(__name__)

NO_LATENCY = ("--unit-size", "16", "--settings.max-num-seqs", "16")


@pytest.mark.parametrize("rounds", [15, pytest.param(1000, marks=pytest.mark.faults)])
def test_one_of_sixteen_writers_wins_on_s3(bucket: str, rounds: int) -> None:
    assert storage.honours_create(bucket)
    for unit in range(rounds):
        prove_one_winner(bucket, unit)


@pytest.mark.parametrize("rounds", [50, pytest.param(1000, marks=pytest.mark.faults)])
def test_one_of_sixteen_writers_wins_on_a_disk(tmp_path: Path, rounds: int) -> None:
    for unit in range(rounds):
        prove_one_winner(str(tmp_path), unit)


@pytest.fixture
def plain_store(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A store without conditional writes: it overwrites existing objects."""
    proxy = FaultProxy(s3_server)
    proxy.stripped = (b"if-none-match",)
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    s3fs.S3FileSystem.clear_instance_cache()
    yield proxy
    proxy.close()
    s3fs.S3FileSystem.clear_instance_cache()


def test_a_store_that_overwrites_still_holds_each_row_once(
    bucket: str, plain_store: FaultProxy
) -> None:
    assert not storage.honours_create(bucket)
    for unit in range(10):
        race(bucket, unit)
        # Whichever writer was last, readers always see one complete file.
        assert caption_units(bucket).read(unit).num_rows == 1
    assert caption_units(bucket).list_done() == set(range(10))


@pytest.mark.faults
@pytest.mark.parametrize("number", range(5))
def test_four_runs_on_one_output_lose_and_double_nothing(
    large: World, tmp_path: Path, number: int
) -> None:
    output = tmp_path / "out"
    flags = ["--input", str(large.shards), "--output", str(output), *FAKE]
    flags += ["--unit-size", str(LARGE_UNIT), "--settings.max-num-seqs", "16"]
    flags += ["--settings.fake-latency-s", "0.3"]
    runs = [start("caption.py", *flags, cwd=tmp_path) for _ in range(4)]
    outputs = [run.communicate(timeout=800) for run in runs]
    for run, (_, err) in zip(runs, outputs, strict=True):
        assert run.returncode == 0, err[-3000:]
    large.prove(output)
    wasted = sum(int(n) for out, _ in outputs for n in re.findall(r"(\d+) captioned in vain", out))
    log.info("images captioned in vain: %d", wasted)
    # Each run takes the units in random order. The chance that a started unit is already in
    # flight in another run grows as fewer are left. For the 4,871 units of 1.2 M images that is
    # one in fifty.
    in_flight = len(runs) * UNITS_IN_FLIGHT
    assert wasted <= LARGE_UNIT * in_flight * (1 + math.log(LARGE_UNITS / in_flight))


@pytest.mark.faults
def test_four_runs_on_a_store_that_overwrites_lose_and_double_nothing(
    bucket: str, plain_store: FaultProxy, tmp_path: Path
) -> None:
    world = build_world(tmp_path / "shards", images=480, shards=4)
    files = s3fs.S3FileSystem()
    for number in range(5):
        output = f"{bucket}/run-{number}"
        flags = ["--input", str(world.shards), "--output", output, *FAKE, *NO_LATENCY]
        flags += ["--settings.fake-latency-s", "0.3"]
        runs = [start("caption.py", *flags, cwd=tmp_path) for _ in range(4)]
        outputs = [run.communicate(timeout=600) for run in runs]
        for run, (_, err) in zip(runs, outputs, strict=True):
            assert run.returncode == 0, err[-3000:]
        # A run that starts when all units are done writes nothing, and so does not warn.
        warnings = [err.count("this store overwrites") for _, err in outputs]
        assert max(warnings) == 1, warnings
        copy = tmp_path / f"run-{number}"
        files.get(f"{output}/plan.parquet", f"{copy}/plan.parquet")
        files.get(f"{output}/captions/", f"{copy}/captions/", recursive=True)
        world.prove(copy)


def test_a_reader_never_sees_a_row_twice_while_a_unit_is_healed(tmp_path: Path) -> None:
    output = str(tmp_path)
    caption_units(output).commit(0, "plan", "run-0", rows_of_writer(0))
    done = threading.Event()
    seen: list[int] = []

    def read() -> None:
        while not done.is_set():
            files = [file.uri for file in storage.list_files(caption_units(output).folder)]
            seen.append(sum(pq.read_table(uri).num_rows for uri in files))

    reader = threading.Thread(target=read)
    reader.start()
    for writer in range(200):
        caption_units(output).commit(0, "plan", f"run-{writer}", rows_of_writer(writer), heal=True)
    done.set()
    reader.join()
    assert set(seen) == {1}
