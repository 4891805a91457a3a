"""`ray up cluster/local.yaml` over SSH on simulated hosts, then the exact `ray job submit`."""

import os
import secrets
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import s3fs
import yaml
from moto.server import ThreadedMotoServer

from s4v_core.demo.scene_files import write_lessons, write_scenes
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.training.worker.checkpoints import list_checkpoints
from s4v_core.training.worker.step_metrics import read_metrics
from tests.atomic_s3 import make_creation_atomic
from tests.cluster.head import BIN
from tests.cluster.hosts import ROOT, Host, Network, find_obstacle, wait_until
from tests.faults.world import World, build_world
from tests.flow.oracle import check_rows
from tests.perf.servers import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(1800)]

BUCKET = "s3://cluster"
SCENES, IMAGES = 100, 2000
DASHBOARD_PORT = 8265
CPUS = 3
"""CPUs of each worker, regardless of the machine."""
REFUSED = {None, 401, 403, 404, 405}
"""Answers that refuse a command; 405 comes from servers that only show metrics."""
STORE = "--object-store-memory=400000000"

ENVIRONMENT = f"""
set -e
[ -d ~/s4v-venv ] || {sys.executable} -m venv --without-pip ~/s4v-venv
site=$(~/s4v-venv/bin/python -c 'import site; print(site.getsitepackages()[0])')
echo {sysconfig.get_path("purelib")} > $site/packages.pth
cp ~/s4v/cluster/cpu/s4v_torchvision_cpu.* $site
cp {BIN}/ray {BIN}/uv ~/s4v-venv/bin
sed -i "1s|.*|#!$HOME/s4v-venv/bin/python|" ~/s4v-venv/bin/ray
export VIRTUAL_ENV=~/s4v-venv
~/s4v-venv/bin/uv pip install -q --offline --no-deps --no-build-isolation -e ~/s4v
"""
"""Replaces cluster/install.sh, because the hosts reach no package index: uses the packages of this
environment and installs the project from the copied checkout."""


class Launched(NamedTuple):
    network: Network
    checkout: Path
    variables: dict[str, str]

    def ray(self, *command: str, limit_s: float = 900) -> str:
        """Run a `ray` command that must succeed; return its output."""
        done = subprocess.run(
            [BIN / "ray", *command],
            cwd=self.checkout,
            env=self.variables,
            capture_output=True,
            text=True,
            timeout=limit_s,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
        return done.stdout

    def workers(self) -> int:
        """Count the workers that the head considers alive; 0 while the head does not answer."""
        address = self.variables["RAY_API_SERVER_ADDRESS"]
        token = (Path(self.variables["HOME"]) / ".ray" / "auth_token").read_text()
        try:
            answer = httpx.get(
                f"{address}/api/v0/nodes", headers={"authorization": f"Bearer {token}"}
            )
        except httpx.TransportError:
            return 0
        nodes = answer.json()["data"]["result"]["result"]
        return sum(node["state"] == "ALIVE" and not node["is_head_node"] for node in nodes)

    def submit(self, *flags: str) -> str:
        return self.ray("job", "submit", "--", "python", "ray_jobs/caption.py", *flags)


@pytest.fixture(scope="module")
def network() -> Iterator[Network]:
    reason = find_obstacle() or next(
        (f"needs {tool}" for tool in ("sshd", "rsync") if shutil.which(tool) is None), None
    )
    if reason:
        pytest.skip(reason)
    network = Network()
    yield network
    network.close()


@pytest.fixture(scope="module")
def store(network: Network) -> Iterator[s3fs.S3FileSystem]:
    make_creation_atomic()
    server = ThreadedMotoServer(ip_address=network.gateway, port=0)
    server.start()
    host, port = server.get_host_and_port()
    url = f"http://{host}:{port}"
    files = s3fs.S3FileSystem(endpoint_url=url, key="test", secret="test")
    files.mkdir(BUCKET)
    yield files
    server.stop()


@pytest.fixture(scope="module")
def launched(
    network: Network, store: s3fs.S3FileSystem, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Launched]:
    folder = tmp_path_factory.mktemp("launched")
    key = _make_key(folder)
    for _ in range(3):
        network.add_host().listen_ssh(key)
    checkout = _copy_checkout(folder)
    _adapt_config(checkout / "cluster" / "local.yaml", network, folder / "key", store)
    port = free_port()
    variables = os.environ | {
        "HOME": str(folder),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "RAY_TMPDIR": str(folder),
        "RAY_AUTH_MODE": "token",
        "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{port}",
        "RAY_USAGE_STATS_ENABLED": "0",
    }
    found = Launched(network, checkout, variables)
    found.ray("up", "-y", "--no-config-cache", "cluster/local.yaml")
    tunnel = subprocess.Popen(
        [BIN / "ray", "dashboard", "--port", str(port), "cluster/local.yaml"],
        cwd=checkout,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_until(lambda: found.workers() == 2, "both workers are up", 600)
        yield found
    finally:
        tunnel.terminate()


def _make_key(folder: Path) -> str:
    """Make a key pair and a token as in cluster/README.md; return the public key."""
    command = ("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key"))
    subprocess.run(command, check=True)
    (folder / ".ray").mkdir(mode=0o700)
    (folder / ".ray" / "auth_token").write_text(secrets.token_hex(32))
    return (folder / "key.pub").read_text()


def _copy_checkout(folder: Path) -> Path:
    """Copy the files that a fresh checkout has."""
    names = subprocess.run(
        ("git", "ls-files", "-z"), cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.split("\0")
    for name in filter(None, names):
        target = folder / "checkout" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, target)
    return folder / "checkout"


def _adapt_config(file: Path, network: Network, key: Path, store: s3fs.S3FileSystem) -> None:
    """Fill in the lines marked YOURS, and adapt the file to two cores without a package index."""
    config: dict[str, Any] = yaml.safe_load(file.read_text())
    head, *workers = [host.address for host in network.hosts]
    config["provider"] |= {"head_ip": head, "worker_ips": workers}
    config["auth"] = {"ssh_user": "root", "ssh_private_key": str(key)}
    settings = {
        "S4V_ROOT": BUCKET,
        "AWS_ENDPOINT_URL": store.endpoint_url,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    exports = " ".join(f"{name}={value}" for name, value in settings.items())
    commands = config["setup_commands"]
    commands[0] = f"echo 'export {exports}' > ~/.s4v_env"
    [install] = [n for n, command in enumerate(commands) if "install.sh" in command]
    (file.parent / "environment.sh").write_text(ENVIRONMENT)
    commands[install] = "bash ~/s4v/cluster/environment.sh"
    for name, more in (("head", ""), ("worker", f" --num-cpus={CPUS}")):
        commands = config[f"{name}_start_ray_commands"]
        start = commands[-1].split(" ")
        commands[-1] = " ".join(STORE if "object-store" in part else part for part in start) + more
    file.write_text(yaml.safe_dump(config, width=1000))


def test_the_literal_command_captions_scenes_with_the_demo_captioner(
    launched: Launched, store: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    write_scenes(tmp_path / "images", SCENES, per_shard=50)
    store.put(f"{tmp_path}/images/", f"{BUCKET}/images/", recursive=True)
    store.put(f"{CAPTIONER}/", f"{BUCKET}/models/share-captioner/", recursive=True)
    launched.submit()
    rows = check_rows(_fetch_run(store, f"{BUCKET}/captions", tmp_path / "out"))
    assert len(rows) == SCENES
    assert {row["status"] for row in rows} == {"ok"}
    assert all(row["engine"].startswith("vllm") for row in rows)


def test_a_wrong_token_is_refused(launched: Launched) -> None:
    with pytest.raises(AssertionError, match=r"(?i)auth|token|401"):
        Launched(*launched[:2], launched.variables | {"RAY_AUTH_TOKEN": "0" * 64}).ray(
            "job", "list"
        )


def test_no_host_runs_commands_without_the_token(launched: Launched) -> None:
    head, *workers = launched.network.hosts
    assert f":{DASHBOARD_PORT}" not in "".join(_list_open_ports(head))
    for host in (head, *workers):
        ports = [found.rpartition(":")[2] for found in _list_open_ports(host)]
        assert "22" in ports
        for path in ("/api/jobs/", "/api/job_agent/jobs/"):
            answers = {port: _post_job(f"http://{host.address}:{port}{path}") for port in ports}
            assert set(answers.values()) <= REFUSED, answers
            assert 401 in answers.values() or path == "/api/jobs/", answers


def _list_open_ports(host: Host) -> list[str]:
    """List addresses and ports on which other hosts can reach this one."""
    lines = host.run("ss", "-H", "-l", "-t", "-n").splitlines()
    found = [line.split()[3] for line in lines]
    return [place for place in found if not place.startswith(("127.", "[::1]"))]


def _post_job(url: str) -> int | None:
    """Try to submit a command; return the status, or None if the port does not speak HTTP."""
    try:
        return httpx.post(url, json={"entrypoint": "true"}, timeout=5).status_code
    except httpx.TransportError:
        return None


def test_a_host_cut_off_and_another_killed_cost_time_and_no_image(
    launched: Launched, store: s3fs.S3FileSystem, tmp_path: Path
) -> None:
    world = build_world(tmp_path / "shards", IMAGES, shards=8)
    store.put(f"{world.shards}/", f"{BUCKET}/many/", recursive=True)
    output = f"{BUCKET}/many-captions"
    flags = ["--input", f"{BUCKET}/many", "--output", output, "--model", "none"]
    flags += ["--engine", "fake", "--engines", "2", "--unit-size", "32"]
    flags += ["--settings.fake-latency-s", "0.5", "--settings.max-num-seqs", "8"]
    flags += ["--settings.cpus", "1"]
    job = _start_job(launched, tmp_path, "caption.py", *flags)
    _, cut, killed = launched.network.hosts
    _wait_for_units(store, output, 5)
    cut.unplug()
    _wait_for_units(store, output, _count_units(store, output) + 3)
    cut.plug_in(launched.network.gateway)
    killed.kill_all()
    killed.listen_ssh((Path(launched.variables["HOME"]) / "key.pub").read_text())
    job.wait(900)
    if job.returncode:  # the runbook's way to recover
        launched.ray("up", "-y", "--no-config-cache", "cluster/local.yaml")
        wait_until(lambda: launched.workers() == 2, "both workers are up", 600)
        launched.submit(*flags)
    _prove(world, _fetch_run(store, output, tmp_path / "out"))


STEPS = 40


def test_training_that_loses_a_host_ends_with_the_same_losses(
    launched: Launched, checkpoint: Path, tmp_path: Path
) -> None:
    lessons = tmp_path / "lessons"
    write_lessons(lessons, 16 * STEPS, seed=3)
    flags = ["demo", "--data", f"{lessons}/captions.json", "--images", str(lessons)]
    flags += ["--model", str(checkpoint), "--batch-size", "16", "--device-batch-size", "4"]
    flags += ["--max-steps", str(STEPS), "--saving.every-steps", "10"]
    output, alone = tmp_path / "run", tmp_path / "alone"
    # There are more workers than one host has CPUs, so training continues only on both hosts.
    job = _start_job(
        launched, tmp_path, "finetune.py", *flags, "--output", str(output), "--workers", "4"
    )
    _, _, lost = launched.network.hosts
    wait_until(lambda: list_checkpoints(str(output)), "a checkpoint is written", 400)
    lost.unplug()
    wait_until(lambda: launched.workers() == 1, "the head notices the loss", 200)
    lost.plug_in(launched.network.gateway)
    assert job.wait(900) == 0, (tmp_path / "job.log").read_text()[-6000:]
    script = [sys.executable, str(ROOT / "ray_jobs" / "finetune.py"), *flags]
    subprocess.run([*script, "--output", str(alone), "--workers", "0"], check=True, cwd=ROOT)
    losses = [[m.loss for m in read_metrics(str(folder))] for folder in (output, alone)]
    assert len(losses[1]) == STEPS
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def _start_job(
    launched: Launched, folder: Path, script: str, *flags: str
) -> subprocess.Popen[bytes]:
    """Submit a job in the background; its output goes to job.log."""
    with (folder / "job.log").open("w") as log:
        return subprocess.Popen(
            [BIN / "ray", "job", "submit", "--", "python", f"ray_jobs/{script}", *flags],
            cwd=launched.checkout,
            env=launched.variables,
            stdout=log,
            stderr=subprocess.STDOUT,
        )


def _prove(world: World, output: Path) -> None:
    assert len(world.prove(output)) == IMAGES


def _count_units(store: s3fs.S3FileSystem, output: str) -> int:
    store.invalidate_cache()
    return len(store.glob(f"{output}/captions/*.parquet"))


def _wait_for_units(store: s3fs.S3FileSystem, output: str, count: int) -> None:
    wait_until(lambda: _count_units(store, output) >= count, f"{count} units are done", 300)


def _fetch_run(store: s3fs.S3FileSystem, output: str, folder: Path) -> Path:
    store.invalidate_cache()
    (folder / "captions").mkdir(parents=True)
    store.get(f"{output}/plan.parquet", f"{folder}/plan.parquet")
    store.get(f"{output}/captions/", f"{folder}/captions/", recursive=True)
    return folder
