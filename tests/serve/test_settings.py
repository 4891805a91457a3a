"""The configuration: the shipped file, the settings that are refused, and the self-check."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from s4v_core.errors import ConfigError
from serve.app import build
from serve.protections import list_protections
from serve.settings import ServeConfig
from tests.serve.service import FAKE

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = ROOT / "serve" / "config.yaml"


def test_the_shipped_file_is_valid_for_serve_and_for_the_application() -> None:
    from ray.serve.schema import ServeDeploySchema

    found = yaml.safe_load(SHIPPED.read_text())
    ServeDeploySchema.model_validate(found)
    [application] = found["applications"]
    assert application["import_path"] == "serve.app:build"
    config = ServeConfig.model_validate(application["args"])
    assert [model.id for model in config.models] == ["share-captioner", "sharegpt4v-7b"]
    for scaling in (config.ingress, *(model.scaling for model in config.models)):
        # Serve's own defaults for LLMs never scale, and never refuse.
        assert scaling.max_replicas > scaling.min_replicas
        assert scaling.target_ongoing_requests <= scaling.max_ongoing_requests < 1000
        assert scaling.max_queued_requests < 1000
    assert found["http_options"]["host"] == "127.0.0.1"
    assert found["http_options"]["request_timeout_s"] > config.limits.timeout_s


@pytest.mark.parametrize(
    ("args", "sentence"),
    [
        ({"models": [FAKE, FAKE]}, "models: found the id share-captioner twice"),
        ({"models": []}, "models: found"),
        (
            {"models": [FAKE | {"path": "nowhere", "engine": "vllm"}]},
            "model: no such folder: nowhere",
        ),
        ({"models": [FAKE], "ingress": {"min_replicas": 9}}, "min_replicas is above max_replicas"),
        ({"models": [FAKE], "port": 80}, "port: found 80: Extra inputs are not permitted"),
        ({"models": [FAKE], "guard": {"keys_file": "/nowhere"}}, "keys file /nowhere cannot be"),
        ({"models": [FAKE], "fetch": {"enabled": True}}, "hosts: found none"),
        (
            {"models": [FAKE | {"engine": "vllm", "settings": {"nodes_per_engine": 2}}]},
            "settings.nodes_per_engine: found 2, allowed 1 here, because a replica runs on one",
        ),
        (
            {"models": [FAKE | {"settings": {"gpus_per_engine": 2}}]},
            "settings.gpus_per_engine: found 2, which engine fake cannot use",
        ),
    ],
)
def test_settings_that_cannot_be_served_are_refused_in_one_sentence(
    args: dict, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        build(args)
    assert "\n" not in str(error.value)


def test_risky_settings_are_warned_about() -> None:
    lines = list_protections({"models": [FAKE]})
    assert [line for line in lines if line.startswith("WARNING")] == [
        "WARNING keys: no keys_file, so every request but health is refused"
    ]
    risky = {"guard": {"open_to_all": True}, "log_texts": True}
    lines = list_protections(
        {"models": [FAKE], "fetch": {"enabled": True, "any_host": True}} | risky
    )
    assert len([line for line in lines if line.startswith("WARNING")]) == 3


def test_a_wrong_configuration_ends_the_command_with_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("applications: [{args: {models: []}}]")
    for name in ("missing.yaml", "wrong.yaml"):
        done = subprocess.run(
            [sys.executable, "-m", "serve", "--self-check", "--config", str(tmp_path / name)],
            capture_output=True,
            text=True,
            cwd=ROOT,
            timeout=120,
            check=False,
        )
        assert done.returncode == 2
        assert done.stderr.startswith("error: ")
        assert len(done.stderr.splitlines()) == 1
        assert not done.stdout


def test_a_replica_takes_the_gpus_of_its_engine(local_ray: None) -> None:
    """Ray shows a process the GPUs that it takes itself; those of its bundle alone are not its."""
    from dataclasses import replace

    from ray.llm._internal.serve.core.server.llm_server import LLMServer

    from serve.app import _build_llm_config
    from serve.engines.models import check_models

    settings = {"gpus_per_engine": 4, "cpus": 2}
    model = {"id": "large", "path": "demo", "engine": "vllm", "settings": settings}
    [found] = check_models(ServeConfig.model_validate({"models": [model]}).models)
    for device, gpus in (("gpu", 4), ("cpu", 0)):
        spec = replace(found.spec, device=device)
        options = LLMServer.get_deployment_options(_build_llm_config(replace(found, spec=spec)))
        assert options["ray_actor_options"]["num_gpus"] == gpus
        [bundle] = options["placement_group_bundles"]
        assert {name: size for name, size in bundle.items() if size} == (
            {"CPU": 4, "GPU": 4} if gpus else {"CPU": 4}
        )
