"""The configuration: the shipped file, the settings that are refused, and the self-check."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from s4v_core.errors import ConfigError
from serve.api.ingress import Ingress
from serve.app import build, check_args
from serve.keys import make_key
from serve.protections import list_protections
from serve.settings import EngineScaling, Scaling, ServeConfig
from tests.serve.service import FAKE

ROOT = Path(__file__).resolve().parents[2]
SHIPPED = (ROOT / "serve" / "config.yaml", ROOT / "cluster" / "kuberay" / "rayservice.yaml")


def _read_shipped(path: Path) -> dict[str, Any]:
    found = yaml.safe_load(path.read_text())
    if "spec" in found:
        found = yaml.safe_load(found["spec"]["serveConfigV2"])
    assert isinstance(found, dict)
    return found


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_file_is_valid_for_serve_and_for_the_application(path: Path) -> None:
    from ray.serve.schema import ServeDeploySchema

    found = _read_shipped(path)
    ServeDeploySchema.model_validate(found)
    [application] = found["applications"]
    assert application["import_path"] == "serve.app:build"
    [deployment] = application["deployments"]
    assert deployment["name"] == Ingress.__name__
    config = ServeConfig.model_validate(application["args"])
    config = config.apply_changes(deployment["user_config"])
    assert [model.id for model in config.models] == ["share-captioner", "sharegpt4v-7b"]
    assert all(model.path == f"$S4V_ROOT/models/{model.id}" for model in config.models)
    assert (config.guard.requests_per_minute, config.guard.concurrent) == (600, 64)
    engines = [model.scaling.fill_in(model.settings.max_num_seqs) for model in config.models]
    for scaling in (config.ingress, *engines):
        # Serve's own defaults for LLMs never scale, and never refuse.
        assert scaling.max_replicas > scaling.min_replicas
        assert scaling.target_ongoing_requests <= scaling.max_ongoing_requests < 1000
        assert scaling.max_queued_requests < 1000
    limits = config.limits
    assert found["http_options"]["request_timeout_s"] > limits.timeout_s + limits.engine_start_s


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_a_shipped_file_starts_on_converted_checkpoints_below_the_root(
    path: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    [application] = _read_shipped(path)["applications"]
    for model in application["args"]["models"]:
        (tmp_path / "models").mkdir(exist_ok=True)
        (tmp_path / "models" / model["id"]).symlink_to(checkpoint)
    secret, line = make_key("alice")
    (tmp_path / "keys").write_text(line)
    args = application["args"] | {"guard": {"keys_file": str(tmp_path / "keys")}}
    monkeypatch.delenv("S4V_ROOT", raising=False)
    with pytest.raises(ConfigError, match=r"share-captioner lies below .S4V_ROOT, which is not"):
        check_args(args)
    monkeypatch.setenv("S4V_ROOT", f"{tmp_path}/")
    _, models, keyring = check_args(args)
    assert [model.spec.model for model in models] == [
        str(tmp_path / "models" / name) for name in ("share-captioner", "sharegpt4v-7b")
    ]
    assert keyring.find(secret)


SHARE4V = {"model_type": "share4v", "architectures": ["Share4VLlamaForCausalLM"]}
SHARE4V |= {"mm_vision_tower": "Lin-Chen/ShareGPT4V-7B_Pretrained_vit-large336-l12"}
LLAVA = {"model_type": "llava", "architectures": ["LlavaLlamaForCausalLM"]}
LLAVA |= {"mm_vision_tower": "openai/clip-vit-large-patch14-336"}
XCOMPOSER = {"model_type": "InternLMXComposer", "auto_map": {"AutoModel": "modeling.X"}}
XCOMPOSER |= {"architectures": ["InternLMXComposerForCausalLM"], "vision_tower": "eva"}


@pytest.mark.parametrize(
    ("original", "sentence"),
    [
        (SHARE4V, r"original layout of LLaVA; convert it first: python ray_jobs/convert\.py "),
        (LLAVA, r"original layout of LLaVA; convert it first: python ray_jobs/convert\.py "),
        (XCOMPOSER, r"needs code of its own repository .*such code is never run here"),
    ],
)
def test_an_original_checkpoint_is_refused_before_anything_starts(
    tmp_path: Path, original: dict[str, Any], sentence: str
) -> None:
    (tmp_path / "config.json").write_text(json.dumps(original))
    since = time.monotonic()
    with pytest.raises(ConfigError, match=sentence) as error:
        build({"models": [{"id": "sharegpt4v-7b", "path": str(tmp_path)}]})
    assert "\n" not in str(error.value)
    assert time.monotonic() - since < 10


@pytest.mark.parametrize(
    ("sequences", "given", "most", "target"),
    [
        (256, {}, 288, 192),
        (32, {}, 36, 24),
        (8, {}, 9, 6),
        (1, {}, 2, 1),
        (256, {"max_ongoing_requests": 64}, 64, 48),
        (256, {"target_ongoing_requests": 10, "max_ongoing_requests": 20}, 20, 10),
        (1024, {}, 1152, 768),
    ],
)
def test_the_numbers_of_scaling_follow_from_the_engines_sequences(
    sequences: int, given: dict[str, Any], most: int, target: float
) -> None:
    found = EngineScaling.model_validate(given).fill_in(sequences)
    assert (found.max_ongoing_requests, found.target_ongoing_requests) == (most, target)
    assert type(found) is Scaling


def test_the_haproxy_mode_of_ray_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_SERVE_ENABLE_HA_PROXY", "1")
    with pytest.raises(ConfigError, match="RAY_SERVE_ENABLE_HA_PROXY: found 1, allowed 0"):
        check_args({"models": [FAKE]})


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
    (tmp_path / "no.yaml").write_text("applications: [{args: {models: 1}")
    for name in ("missing.yaml", "wrong.yaml", "no.yaml", "/dev/null"):
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
        options = LLMServer.get_deployment_options(
            _build_llm_config(replace(found, spec=spec), 120.0)
        )
        assert options["ray_actor_options"]["num_gpus"] == gpus
        [bundle] = options["placement_group_bundles"]
        assert {name: size for name, size in bundle.items() if size} == (
            {"CPU": 4, "GPU": 4} if gpus else {"CPU": 4}
        )
