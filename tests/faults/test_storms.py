"""Whole passes over a faulty store: they may take longer, but every row is the same."""

import logging
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import s3fs

from tests.faults.proxy import FaultProxy
from tests.faults.world import World, build_world
from tests.flow.oracle import check_rows
from tests.flow.scripts import FAKE, start

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

UNIT = 16

log = logging.getLogger(__name__)


class Store:
    """A bucket with the shards of a world, which runs reach only through the proxy."""

    def __init__(self, bucket: str, world: World, proxy: FaultProxy, direct: str) -> None:
        self.bucket, self.world, self.proxy = bucket, world, proxy
        self.files = s3fs.S3FileSystem(endpoint_url=direct, skip_instance_cache=True)
        self.files.put(f"{world.shards}/", f"{bucket}/shards/", recursive=True)

    def caption(self, folder: Path, *more: str, meanwhile: Callable[[str], None] = str) -> float:
        """Run the pass, download its output to `folder` and return the seconds it took."""
        output = f"{self.bucket}/{folder.name}"
        settings = ("--unit-size", str(UNIT), "--settings.max-num-seqs", str(UNIT))
        flags = ["--input", f"{self.bucket}/shards", "--output", output, *FAKE, *settings, *more]
        started = time.monotonic()
        driver = start("caption.py", *flags, cwd=folder.parent)
        meanwhile(output)
        _, err = driver.communicate(timeout=900)
        seconds = time.monotonic() - started
        assert driver.returncode == 0, err[-3000:]
        self.files.invalidate_cache()
        self.files.get(f"{output}/plan.parquet", f"{folder}/plan.parquet")
        self.files.get(f"{output}/captions/", f"{folder}/captions/", recursive=True)
        return seconds

    def wait_for(self, path: str, count: int) -> None:
        """Wait for a file, or for a folder with `count` files."""
        deadline = time.monotonic() + 240
        while time.monotonic() < deadline:
            self.files.invalidate_cache()
            if self.files.exists(path) and len(self.files.ls(path)) >= count:
                return
            time.sleep(0.05)
        raise AssertionError(f"{path}: not there in time")


@pytest.fixture
def store(bucket: str, proxy: FaultProxy, s3_server: str, tmp_path: Path) -> Store:
    world = build_world(tmp_path / "shards", images=UNIT * 200, shards=8)
    return Store(bucket, world, proxy, s3_server)


def _make_folder(tmp_path: Path, name: str) -> Path:
    folder = tmp_path / name
    folder.mkdir()
    return folder


def test_a_tired_store_slows_a_pass_and_changes_nothing(store: Store, tmp_path: Path) -> None:
    seconds = {}
    for share in (0.0, 0.01, 0.1, 0.5):
        store.proxy.refused = share
        folder = _make_folder(tmp_path, f"refused-{share}")
        seconds[share] = round(store.caption(folder), 1)
        rows = store.world.prove(folder)
        assert all(row["status"] == "ok" for row in rows.values())
    log.info("seconds by share of calls refused: %s", seconds)


def test_an_outage_of_half_a_minute_is_waited_for(store: Store, tmp_path: Path) -> None:
    def cut_off(output: str) -> None:
        store.wait_for(f"{output}/captions", 5)
        store.proxy.down = True
        threading.Timer(30, lambda: setattr(store.proxy, "down", False)).start()

    store.caption(_make_folder(tmp_path, "out"), meanwhile=cut_off)
    store.world.prove(tmp_path / "out")


@pytest.mark.parametrize("fault", ["dropped", "cut", "failed"])
def test_a_pass_survives_one_answer_in_ten_dropped_cut_or_failed(
    store: Store, tmp_path: Path, fault: str
) -> None:
    setattr(store.proxy, fault, 0.1)
    store.caption(_make_folder(tmp_path, "out"))
    assert store.proxy.fault_count >= 30
    store.world.prove(tmp_path / "out")


def test_two_seconds_of_latency_cost_time_and_nothing_else(store: Store, tmp_path: Path) -> None:
    store.proxy.delay_s = 2
    store.caption(_make_folder(tmp_path, "out"), "--unit-size", "256")
    store.world.prove(tmp_path / "out")


@pytest.mark.parametrize("number", range(10))
def test_shards_replaced_in_mid_run_mix_no_captions(
    bucket: str, proxy: FaultProxy, s3_server: str, tmp_path: Path, number: int
) -> None:
    world = build_world(tmp_path / "shards", images=UNIT * 32, shards=4)
    replacements = build_world(tmp_path / "replacements", images=UNIT * 40, shards=5)
    store = Store(bucket, world, proxy, s3_server)

    def replace(output: str) -> None:
        store.wait_for(f"{output}/plan.parquet", 0)
        proxy.delay_s = 0.3  # without it, everything is read before the first unit is done
        store.wait_for(f"{output}/captions", 2)
        for at in range(4):  # other pictures, under other numbers, in objects of the same name
            new = replacements.shards / f"{at + 1:04d}.tar"
            store.files.put_file(str(new), f"{bucket}/shards/{at:04d}.tar")

    folder = _make_folder(tmp_path, f"round-{number}")
    store.caption(folder, meanwhile=replace)
    _prove_no_mixture(world, folder)


def _prove_no_mixture(world: World, folder: Path) -> None:
    rows = check_rows(folder)
    ends = {(row["status"], row["reason"]) for row in rows}
    assert ends == {("ok", None), ("error", "source_changed")}
    for row in rows:
        if row["status"] == "ok":
            assert row["caption"] == world.captions[row["image_id"]]
