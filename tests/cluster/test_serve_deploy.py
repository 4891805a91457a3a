"""The endpoints as operators start them: `serve deploy FILE` on a cluster with a token."""

import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
import yaml

from s4v_core.flow import prometheus as run_metrics
from serve.front.metrics import NAMES
from serve.keys import make_key
from tests.cluster.dashboard import USED
from tests.cluster.head import BIN, ROOT, head_node
from tests.conftest import photo
from tests.perf.servers import free_port
from tests.serve.service import ALONE, FAKE

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(600)]

GPU_METRICS = {"ray_node_gpus_utilization", "ray_node_gram_used"}
"""Metrics that Ray exports only on machines with a GPU."""


class Deployed(NamedTuple):
    client: httpx.Client
    metrics: str


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    folder = tmp_path_factory.mktemp("deployed")
    secret, line = make_key("tests")
    (folder / "keys").write_text(f"{line}\n")
    config = _write_config(folder, port := free_port())
    with head_node() as variables:
        command = [BIN / "serve", "deploy", config]
        address = {"RAY_DASHBOARD_ADDRESS": variables["RAY_API_SERVER_ADDRESS"]}
        done = subprocess.run(
            command, env=variables | address, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {secret}"},
            timeout=60,
        ) as client:
            _wait_until_ready(client)
            yield Deployed(client, variables["METRICS"])


def _write_config(folder: Path, port: int) -> Path:
    """Adapt the shipped file to no GPUs: the demo captioner on vLLM, and a fake engine."""
    config: dict[str, Any] = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    config["http_options"]["port"] = port
    args = config["applications"][0]["args"]
    real = {"path": "demo", "settings": {"cpus": 1}, "scaling": ALONE}
    args["models"] = [
        shape | {"id": model["id"]}
        for shape, model in zip((real, FAKE), args["models"], strict=True)
    ]
    args["ingress"] |= ALONE
    args["guard"]["keys_file"] = str(folder / "keys")
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    return folder / "config.yaml"


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
