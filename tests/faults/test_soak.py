"""A very long pass with killed engines, a faulty store and broken images: nothing grows."""

import json
import os
import random
import threading
import time
from pathlib import Path
from subprocess import Popen

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import s3fs

from s4v_core.engines.fake_faults import Fault
from tests.conftest import write_tar
from tests.faults.proxy import FaultProxy
from tests.faults.world import fault_picture, picture
from tests.flow.oracle import fake_caption_of
from tests.flow.scripts import FAKE, engine_actors, start

IMAGES = int(os.environ.get("S4V_SOAK_IMAGES", "20000"))
SHARD_IMAGES = 5000
PICTURES = 500
"""Number of different pictures: enough to detect wrong captions, few enough for a quick proof."""
KILLS = 20
ONE_IN_A_THOUSAND = (Fault.LOOP, Fault.REFUSAL)
A_FEW = (Fault.EXIT, Fault.SEGV, Fault.ASSERT, Fault.HANG, Fault.WORKER)

pytestmark = [pytest.mark.faults, pytest.mark.timeout(4 * 3600)]


class Soak:
    """The images of a run, written shard by shard.

    Attributes:
        pictures: Encoded pictures, by number.
        faults: Fault of each picture that breaks something, by number; these follow the good ones.
        shown: Number of the picture that each image shows.
    """

    def __init__(self) -> None:
        self.pictures = [picture(n) for n in range(PICTURES)]
        self.faults = {PICTURES + n: fault for n, fault in enumerate((*ONE_IN_A_THOUSAND, *A_FEW))}
        self.pictures += [fault_picture(fault) for fault in self.faults.values()]
        chance = random.Random(7)
        self.shown = [chance.randrange(PICTURES) for _ in range(IMAGES)]
        numbers = list(self.faults)
        for number in chance.sample(range(IMAGES), IMAGES // 1000):
            self.shown[number] = chance.choice(numbers[:2])
        for at, number in enumerate(numbers[2:]):
            self.shown[IMAGES * (at + 1) // (len(A_FEW) + 2)] = number

    def write_shard(self, path: Path, first: int) -> None:
        numbers = range(first, min(first + SHARD_IMAGES, IMAGES))
        write_tar(path, {f"{n:07d}.png": self.pictures[self.shown[n]] for n in numbers})

    def prove(self, table: pa.Table) -> None:
        """Check that each image has one row, with the caption of its own picture."""
        numbers = [int(name[-7:]) for name in table["image_id"].to_pylist()]
        assert sorted(numbers) == list(range(IMAGES))
        captions = dict(enumerate(map(fake_caption_of, self.pictures[:PICTURES])))
        columns = (table[name].to_pylist() for name in ("status", "reason", "caption"))
        for number, status, reason, caption in zip(numbers, *columns, strict=True):
            shown = self.shown[number]
            if fault := self.faults.get(shown):
                assert (status, reason) == ENDS[fault], (number, fault, status, reason)
            else:
                assert (status, caption) == ("ok", captions[shown]), (number, status, reason)


ENDS = {
    Fault.LOOP: ("ok", None),
    Fault.REFUSAL: ("rejected", "refusal"),
    Fault.EXIT: ("error", "engine_died"),
    Fault.SEGV: ("error", "engine_died"),
    Fault.ASSERT: ("error", "engine_died"),
    Fault.HANG: ("error", "hang"),
    Fault.WORKER: ("error", "worker_died"),
}


def test_a_long_pass_in_bad_weather_loses_nothing_and_grows_nowhere(
    bucket: str, s3_server: str, proxy: FaultProxy, tmp_path: Path
) -> None:
    soak = Soak()
    store = s3fs.S3FileSystem(endpoint_url=s3_server, skip_instance_cache=True)
    for first in range(0, IMAGES, SHARD_IMAGES):
        shard = tmp_path / f"{first:07d}.tar"
        soak.write_shard(shard, first)
        store.put_file(str(shard), f"{bucket}/shards/{shard.name}")
        shard.unlink()
    proxy.refused, proxy.dropped, proxy.cut = 0.01, 0.005, 0.005
    flags = ["--input", f"{bucket}/shards", "--output", f"{bucket}/out", *FAKE, "--engines", "2"]
    flags += ["--settings.fake-faults", "--settings.silence-limit-s", "10"]
    started = time.monotonic()
    driver = start("caption.py", *flags, cwd=tmp_path)
    printed: list[str] = []
    reader = threading.Thread(target=lambda: printed.extend(driver.communicate()))
    reader.start()
    samples = _disturb_pass(driver, store, f"{bucket}/out/captions", proxy)
    reader.join()
    (tmp_path / "samples.json").write_text(json.dumps(samples))
    assert driver.returncode == 0, printed[1][-3000:]
    store.get(f"{bucket}/out/captions", str(tmp_path / "captions"), recursive=True)
    files = sorted((tmp_path / "captions").rglob("*.parquet"))
    names = ["image_id", "status", "reason", "caption"]
    soak.prove(pa.concat_tables([pq.read_table(file, columns=names) for file in files]))
    _print_summary(samples, time.monotonic() - started, proxy, printed[0])
    _prove_flat(samples)


def _disturb_pass(
    driver: Popen[str], store: s3fs.S3FileSystem, captions: str, proxy: FaultProxy
) -> list[dict]:
    """Kill engines and stop the store once while the driver works; return samples of its memory."""
    samples: list[dict] = []
    killed, outage = 0, False
    chance = random.Random(3)
    while driver.poll() is None:
        time.sleep(5)
        store.invalidate_cache()
        done = len(store.ls(captions)) * 256 if store.exists(captions) else 0
        # No kills in the last tenth: an engine killed with one image in flight looks as if that
        # image had killed it.
        due = IMAGES * (killed + 1) // (KILLS + 3) < done < IMAGES * 0.9
        if due and (actors := engine_actors(driver)):
            chance.choice(actors).kill()
            killed += 1
        if done > IMAGES // 2 and not outage:
            outage = proxy.down = True
            threading.Timer(30, lambda: setattr(proxy, "down", False)).start()
        if sample := _take_sample(driver, done, killed):
            samples.append(sample)
    return samples


def _take_sample(driver: Popen[str], done: int, killed: int) -> dict | None:
    try:
        own = psutil.Process(driver.pid)
        found = {"time": time.time(), "done": done, "killed": killed}
        found |= {"driver_mib": own.memory_info().rss >> 20, "driver_files": own.num_fds()}
        ray = [_measure_worker(process) for process in own.children(recursive=True)]
    except psutil.Error:
        return None
    return found | {
        "processes": len(ray),
        "worker_mib": max((mib for mib, _ in ray), default=0),
        "worker_files": max((files for _, files in ray), default=0),
    }


def _measure_worker(process: psutil.Process) -> tuple[int, int]:
    """Return a Ray worker's private memory in MiB and its open files; zeros for other processes."""
    try:
        if not process.name().startswith("ray::"):
            return 0, 0
        memory = process.memory_info()
        return (memory.rss - memory.shared) >> 20, process.num_fds()
    except psutil.Error:
        return 0, 0


def _median(samples: list[dict], name: str) -> float:
    return float(pc.quantile([sample[name] for sample in samples], 0.5)[0].as_py())


def _select_quarters(samples: list[dict]) -> tuple[list[dict], list[dict]]:
    """Select the samples of the second and the last quarter of the captioning."""
    busy = [sample for sample in samples if 0 < sample["done"] < IMAGES * 0.9]
    quarter = len(busy) // 4
    return busy[quarter : 2 * quarter], busy[-quarter:]


def _prove_flat(samples: list[dict]) -> None:
    early, late = _select_quarters(samples)
    assert _median(late, "driver_mib") <= 1.05 * _median(early, "driver_mib") + 10
    for name in ("driver_files", "worker_files"):
        assert _median(late, name) <= _median(early, name) + 10, name
    assert _median(late, "worker_mib") <= 1.1 * _median(early, "worker_mib") + 100
    assert max(sample["driver_mib"] for sample in samples) < 1024


def _print_summary(samples: list[dict], seconds: float, proxy: FaultProxy, printed: str) -> None:
    """Print the figures of this run, which `pytest -s` shows."""
    names = ("driver_mib", "driver_files", "worker_mib", "worker_files")
    early, late = _select_quarters(samples)
    facts = {name: [_median(early, name), _median(late, name)] for name in names}
    facts |= {"images": IMAGES, "seconds": round(seconds), "store_faults": proxy.fault_count}
    facts |= {"engines_killed": samples[-1]["killed"]}
    print(json.dumps(facts))  # noqa: T201
    print("\n".join(printed.splitlines()[-12:]))  # noqa: T201
