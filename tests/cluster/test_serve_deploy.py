"""The endpoints as operators start them: `serve deploy FILE` on a cluster with a token."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psutil
import pytest
import yaml

from s4v_core.demo.shipped import CAPTIONER
from s4v_core.flow import prometheus as run_metrics
from serve.front.metrics import NAMES
from serve.keys import make_key
from tests.cluster.dashboard import USED
from tests.cluster.head import BIN, ROOT, head_node
from tests.conftest import photo
from tests.perf.servers import free_port

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

GPU_METRICS = {"ray_node_gpus_utilization", "ray_node_gram_used"}
"""Metrics that Ray exports only on machines with a GPU."""


class Deployed(NamedTuple):
    client: httpx.Client
    metrics: str
    config: Path
    variables: dict[str, str]


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployed")
    secret, line = make_key("tests")
    (folder / "keys").write_text(f"{line}\n")
    config = _write_config(folder, port := free_port())
    with head_node(cpus=16, S4V_ROOT=str(folder)) as variables:
        _deploy(config, variables)
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {secret}"},
            timeout=60,
        ) as client:
            _wait_until_ready(client)
            yield Deployed(client, variables["METRICS"], config, variables)


def _write_config(folder: Path, port: int) -> Path:
    """Write the shipped file as it is, but for the place of its keys and its port. Below $S4V_ROOT
    lie two copies of the demo captioner; the installed vLLM chooses the device."""
    (folder / "models").mkdir()
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    config["http_options"]["port"] = port
    args = config["applications"][0]["args"]
    for model in args["models"]:
        (folder / "models" / model["id"]).symlink_to(CAPTIONER)
    args["guard"]["keys_file"] = str(folder / "keys")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


def _deploy(config: Path, variables: dict[str, str]) -> None:
    command = [BIN / "serve", "deploy", config]
    address = {"RAY_DASHBOARD_ADDRESS": variables["RAY_API_SERVER_ADDRESS"]}
    done = subprocess.run(
        command, env=variables | address, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _wait_until_ready(client: httpx.Client) -> None:
    deadline = time.monotonic() + 300
    while time.monotonic() < deadline:
        try:
            if client.get("/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(1)
    raise AssertionError("the endpoints did not come up")


def test_both_models_answer(deployed: Deployed) -> None:
    for model in ("share-captioner", "sharegpt4v-7b"):
        answer = deployed.client.post(
            "/v1/caption", params={"model": model}, **_build_image_request()
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"] == model


def test_every_metric_name_is_in_a_scrape(deployed: Deployed) -> None:
    """The names that the endpoints document, and those that dashboard and rules use."""
    deployed.client.post("/v1/caption", content=b"<html>", headers={"content-type": "image/jpeg"})
    missing = {f"ray_{name}" for name in NAMES} | _find_used_names()
    deadline = time.monotonic() + 90
    while missing:
        assert time.monotonic() < deadline, missing
        # Ray's agent drops gauges that are no longer set: vLLM's exist only while it works.
        deployed.client.post("/v1/caption", **_build_image_request())
        missing -= _read_metric_names(deployed.metrics)


def _find_used_names() -> set[str]:
    pass_names = {f"ray_{name}" for name in run_metrics.NAMES}
    return {name for name in USED if name.startswith("ray_")} - pass_names - GPU_METRICS


def _build_image_request() -> dict[str, Any]:
    return {"content": photo(1), "headers": {"content-type": "image/jpeg"}}


def _read_metric_names(address: str) -> set[str]:
    """Scrape the names of all series, and of histograms also the name without its suffix."""
    lines = httpx.get(address).text.splitlines()
    names = {line.partition("{")[0].split(" ")[0] for line in lines if not line.startswith("#")}
    return {name.removesuffix("_count") for name in names} | names


def _list_replicas() -> set[int]:
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if "ServeReplica:s4v:" in " ".join(process.info["cmdline"] or []):
            found.add(process.pid)
    return found


def test_another_number_in_user_config_takes_effect_and_replaces_no_replica(
    deployed: Deployed,
) -> None:
    before = _list_replicas()
    assert before
    content = deployed.config.read_text()
    config = yaml.safe_load(content)
    [deployment] = config["applications"][0]["deployments"]
    deployment["user_config"]["guard"]["requests_per_minute"] = 2
    deployed.config.write_text(yaml.safe_dump(config))
    try:
        _deploy(deployed.config, deployed.variables)
        deadline = time.monotonic() + 30
        while deployed.client.get("/v1/models").status_code != 429:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    finally:
        deployed.config.write_text(content)
        _deploy(deployed.config, deployed.variables)
    deadline = time.monotonic() + 30
    while deployed.client.get("/v1/models").status_code == 429:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert _list_replicas() == before
