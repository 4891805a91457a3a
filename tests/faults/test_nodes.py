"""Hosts of a real cluster that die or are cut off: the run continues, and no row is doubled."""

import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow.parquet as pq
import pytest
import s3fs
from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

from tests.atomic_s3 import make_creation_atomic
from tests.cluster.hosts import PROBES, ROOT, Host, Network, RayCluster, wait_until
from tests.faults.world import World, build_world
from tests.flow.scripts import FAKE

pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]

log = logging.getLogger(__name__)

KILLS = CUTS = 5
CUT_S = 60.0
RECOVERY_LIMIT_S = 300.0
"""Limit for two shared cores; the goal is 30 s on a machine with nothing else running."""

IMAGES, SHARDS, UNIT = 10_000, 8, 64
WORKER_CPUS = 6
DERIVED = {"plan.parquet", "run.json", "stats.json", "report.html", "README.md", ".create-only"}
"""All files that a run may write besides its units."""


class Commit(NamedTuple):
    host: str
    unit: str
    status: int


class Store:
    """An S3 that all hosts reach. It records which host wrote which unit, and can delay a writer.

    Attributes:
        commits: Host, unit and answered status of each write of a unit, in order.
    """

    def __init__(self, address: str) -> None:
        make_creation_atomic()
        self.commits: list[Commit] = []
        self._app = DomainDispatcherApplication(create_backend_app)
        self._lock = threading.Lock()
        self._holding, self._held, self._open = False, Commit("", "", 0), threading.Event()
        self._server = make_server(address, 0, self._serve, threaded=True)
        self.variables = {
            "AWS_ENDPOINT_URL": f"http://{address}:{self._server.server_port}",
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self.release()
        self._server.shutdown()

    def files(self) -> s3fs.S3FileSystem:
        url = self.variables["AWS_ENDPOINT_URL"]
        return s3fs.S3FileSystem(
            endpoint_url=url, key="test", secret="test", skip_instance_cache=True
        )

    def hold_one(self) -> Commit:
        """Delay the next write of a unit, and all other writes of its host, until `release`.

        Returns:
            The delayed commit.
        """
        self._held, self._holding = Commit("", "", 0), True
        self._open.clear()
        wait_until(lambda: self._held.unit, "a host commits", 300)
        return self._held

    def release(self) -> None:
        self._holding = False
        self._open.set()

    def answers(self, unit: str) -> dict[str, int]:
        """Statuses of the answers to writes of a unit, by host."""
        return {commit.host: commit.status for commit in self.commits if commit.unit == unit}

    def _serve(self, request: dict[str, Any], respond: Callable[..., Any]) -> Iterable[bytes]:
        folder, _, name = request["PATH_INFO"].rpartition("/")
        if request["REQUEST_METHOD"] != "PUT" or not folder.endswith("/captions"):
            return self._app(request, respond)
        host = request["REMOTE_ADDR"]
        if self._must_wait(host, name):
            self._open.wait()

        def respond_and_record(status: str, *more: Any) -> Any:
            self.commits.append(Commit(host, name, int(status.split()[0])))
            return respond(status, *more)

        return self._app(request, respond_and_record)

    def _must_wait(self, host: str, unit: str) -> bool:
        with self._lock:
            if self._holding and not self._held.host:
                self._held = Commit(host, unit, 0)
            return self._holding and self._held.host == host


@pytest.fixture
def store(network: Network) -> Iterator[Store]:
    store = Store(network.gateway)
    yield store
    store.close()


@pytest.fixture
def cluster(network: Network, store: Store) -> RayCluster:
    return RayCluster(network, workers=2, cpus=WORKER_CPUS, **store.variables, **PROBES)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return build_world(tmp_path_factory.mktemp("world") / "shards", IMAGES, SHARDS)


class Run(NamedTuple):
    """A `caption.py` that runs on the head, and its log file."""

    process: subprocess.Popen[str]
    log: Path

    def check_alive(self) -> None:
        assert self.process.poll() is None, self.log.read_text()

    def check_finished(self) -> None:
        code, printed = self.process.wait(timeout=900), self.log.read_text()
        log.info("%s", printed)
        assert code == 0, printed


def _start_caption(
    cluster: RayCluster, world: World, folder: Path, output: str, *flags: str
) -> Run:
    log_file = folder / "caption.log"
    process = cluster.head.start(
        *(sys.executable, ROOT / "ray_jobs" / "caption.py", *FAKE),
        *("--input", world.shards, "--output", output, "--unit-size", str(UNIT)),
        *("--settings.max-num-seqs", "16", *flags),
        log=log_file,
        **cluster.variables_of(cluster.head),
    )
    return Run(process, log_file)


@pytest.mark.parametrize("engines", [1, 2])
def test_a_raylet_killed_again_and_again_loses_nothing(
    cluster: RayCluster, world: World, tmp_path: Path, engines: int
) -> None:
    output, slow = tmp_path / "out", str(0.4 * engines)
    flags = ("--engines", str(engines), "--settings.fake-latency-s", slow)
    driver = _start_caption(cluster, world, tmp_path, str(output), *flags)
    recoveries = []
    for _ in range(KILLS):
        _wait_for_another_unit(output, driver)
        wait_until(cluster.engines, "an engine is up")
        victim, before = list(cluster.engines().values())[-1], cluster.engines()
        killed = time.monotonic()
        cluster.kill_raylet(victim)
        wait_until(lambda before=before: cluster.engines().keys() - before.keys(), "a new engine")
        seen = time.monotonic() - killed
        _wait_for_another_unit(output, driver)
        recoveries.append(time.monotonic() - killed)
        message = "killed %s; its engine's process again after %.1f s, next unit after %.1f s; %s"
        log.info(message, victim.name, seen, recoveries[-1], _describe_load())
        cluster.start_worker(victim)
    driver.check_finished()
    world.prove(output)
    assert max(recoveries) <= RECOVERY_LIMIT_S


def _wait_for_another_unit(output: Path, driver: Run) -> None:
    before = _list_units(output)

    def one_more() -> bool:
        driver.check_alive()
        return _list_units(output) > before

    wait_until(one_more, "another unit is done")


def _describe_load() -> str:
    return f"load {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores"


def _list_units(output: Path) -> set[str]:
    return {file.name for file in (output / "captions").glob("*.parquet")}


def test_a_host_that_is_cut_off_doubles_nothing_when_it_finishes(
    cluster: RayCluster, store: Store, world: World, tmp_path: Path
) -> None:
    store.files().mkdir("runs")
    flags = ("--engines", "2", "--settings.fake-latency-s", "1.5")
    driver = _start_caption(cluster, world, tmp_path, "s3://runs/out", *flags)
    for _ in range(CUTS):
        driver.check_alive()
        _cut_off_a_committing_host(cluster, store)
    driver.check_finished()
    units = _prove_units(store, world, tmp_path / "out")
    written = [commit.unit for commit in store.commits if commit.status == 200]
    assert sorted(written) == sorted(units)
    refused = [commit for commit in store.commits if commit.status == 412]
    log.info("%d units, %d commits refused: %s", len(units), len(refused), refused)


def _cut_off_a_committing_host(cluster: RayCluster, store: Store) -> None:
    """Cut off a committing host, and delay its commit until another host has done the unit."""
    late = store.hold_one()
    [zombie] = [host for host in cluster.workers if host.address == late.host]
    others = [host.address for host in (cluster.head, *cluster.workers) if host is not zombie]
    cut = time.monotonic()
    zombie.cut_off(*others)
    wait_until(lambda: 200 in store.answers(late.unit).values(), "the unit is done elsewhere")
    again_s = time.monotonic() - cut
    store.release()
    wait_until(lambda: late.host in store.answers(late.unit), "the zombie commits")
    log.info(
        "cut off %s; its unit done again after %.1f s; %s", zombie.name, again_s, _describe_load()
    )
    assert store.answers(late.unit)[late.host] == 412
    time.sleep(max(0.0, CUT_S - (time.monotonic() - cut)))
    zombie.reconnect()
    _wait_for_raylet_to_end(cluster, zombie)
    cluster.start_worker(zombie)


def _wait_for_raylet_to_end(cluster: RayCluster, zombie: Host) -> None:
    """Wait until the raylet that was declared dead learns of it and ends itself."""
    wait_until(lambda: not zombie.processes("/raylet/raylet "), "the zombie ends")
    assert zombie.address not in cluster.nodes_alive()


def _prove_units(store: Store, world: World, copy: Path) -> list[str]:
    """Check everything in the store; return the names of the units."""
    files = store.files()
    found = {name.removeprefix("runs/out/") for name in files.find("runs/out")}
    found = {name for name in found if not name.startswith(".receipts/")}
    files.get("runs/out/", str(copy), recursive=True)
    world.prove(copy)
    numbers = pq.read_table(copy / "plan.parquet")["unit"].unique().to_pylist()
    units = [f"unit-{number:06d}.parquet" for number in numbers]
    assert found <= DERIVED | {f"captions/{unit}" for unit in units}
    return units
