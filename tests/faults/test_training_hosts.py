"""A training run whose hosts die or are cut off at random moments learns what it would have."""

import logging
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from s4v_core.training.worker.checkpoints import list_checkpoints
from s4v_core.training.worker.sample_log import audit_samples
from s4v_core.training.worker.step_metrics import read_metrics
from tests.cluster.hosts import PROBES, ROOT, Host, Network, RayCluster, wait_until
from tests.training.small_run import write_photo_lessons

pytestmark = [pytest.mark.faults, pytest.mark.timeout(7200)]

log = logging.getLogger(__name__)

LOSSES, LOSSES_PER_SHAPE = 20, 5
SAMPLES, STEPS_PER_EPOCH, EPOCHS = 400, 100, 2
HOST_CPUS, WORKERS = 2, 3
"""More workers than one host has CPUs: every loss of a host takes one of them at least."""


class Training:
    """The training script on the head of a cluster, whose workers are on the other hosts."""

    def __init__(self, cluster: RayCluster, command: list[str], folder: Path) -> None:
        self._cluster, self._command, self._log = cluster, command, folder / "training.log"

    def start(self, *flags: str) -> None:
        variables = self._cluster.variables_of(self._cluster.head)
        self._process = self._cluster.head.start(*self._command, *flags, log=self._log, **variables)

    def wait_for_checkpoint(self, output: Path) -> None:
        """Wait for another checkpoint of the run, which must be alive."""
        before = _count_steps(output)

        def is_further() -> bool:
            assert self._process.poll() is None, self._log.read_text()[-6000:]
            return _count_steps(output) > before

        wait_until(is_further, "another checkpoint is written", 600)

    def stop(self) -> None:
        [script] = [
            process
            for process in self._cluster.head.processes("finetune.py")
            if process.name() != "nsenter"
        ]
        script.send_signal(signal.SIGTERM)
        self._process.wait(timeout=180)
        assert "run the same command again to resume" in self._log.read_text()

    def finish(self) -> None:
        assert self._process.wait(timeout=1800) == 0, self._log.read_text()[-6000:]


def _count_steps(output: Path) -> int:
    found = list_checkpoints(str(output))
    return found[-1].step if found else 0


def test_twenty_hosts_are_lost_and_the_losses_are_the_same(
    network: Network, checkpoint: Path, tmp_path: Path
) -> None:
    lessons, output, alone = (tmp_path / name for name in ("lessons", "run", "alone"))
    write_photo_lessons(lessons, 300, text_alone=SAMPLES - 300)
    command = [sys.executable, str(ROOT / "ray_jobs" / "finetune.py"), "demo"]
    command += ["--demo-scenes", "0", "--epochs", str(EPOCHS), "--batch-size", "4"]
    command += ["--data", f"{lessons}/data.json", "--images", str(lessons)]
    command += ["--model", str(checkpoint), "--saving.every-steps", "2"]
    shared = [*command, "--output", str(output), "--max-failures", str(LOSSES)]
    cluster = RayCluster(network, workers=2, cpus=HOST_CPUS, **PROBES)
    training, chance = Training(cluster, shared, tmp_path), random.Random(LOSSES)
    for loss in range(LOSSES):
        if loss % LOSSES_PER_SHAPE == 0:
            if loss:
                training.stop()
            workers, batch = WORKERS + loss // LOSSES_PER_SHAPE % 2, chance.choice((1, 2, 4))
            training.start("--workers", str(workers), "--device-batch-size", str(batch))
        training.wait_for_checkpoint(output)
        time.sleep(chance.uniform(0, 0.5))
        _lose(network, cluster, chance.choice(cluster.workers), is_cut=chance.random() < 0.5)
        log.info("loss %d, checkpoint of step %d", loss + 1, _count_steps(output))
    training.finish()
    subprocess.run([*command, "--output", str(alone), "--workers", "0"], check=True, cwd=ROOT)
    found, expected = ([m.loss for m in read_metrics(str(it))] for it in (output, alone))
    assert len(expected) == STEPS_PER_EPOCH * EPOCHS
    assert found == pytest.approx(expected, abs=1e-4)
    audit = audit_samples(str(output), SAMPLES, STEPS_PER_EPOCH, len(expected))
    assert (audit.seen, audit.twice, audit.left_out) == (SAMPLES * EPOCHS, 0, 0)


def _lose(network: Network, cluster: RayCluster, host: Host, is_cut: bool) -> None:
    """Kill a host or cut it off, and bring it back as an empty one once the head has noticed."""
    if is_cut:
        host.unplug()
    else:
        host.kill_all()
    wait_until(lambda: host.address not in cluster.nodes_alive(), "the head notices the loss", 120)
    if is_cut:
        host.plug_in(network.gateway)
    cluster.start_worker(host)
