"""The manifests follow KubeRay's and Ray Serve's schemas, and agree with the files they repeat."""

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator
from ray.serve.schema import ServeDeploySchema

from serve.front.node_variables import NODE_VARIABLES
from serve.settings import ServeConfig

ROOT = Path(__file__).resolve().parents[2]
MANIFESTS = ROOT / "cluster" / "kuberay"
SCHEMAS = ROOT.parent / "shared" / "schemas" / "kuberay"
"""KubeRay's resource definitions, in a folder beside the checkout."""

ALLOWS_UNKNOWN = "x-kubernetes-preserve-unknown-fields"
CLUSTER = {"RayCluster": (), "RayJob": ("rayClusterSpec",), "RayService": ("rayClusterConfig",)}
"""Path of the cluster in the spec of each kind of manifest."""


def _load_manifest(kind: str) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((MANIFESTS / f"{kind.lower()}.yaml").read_text())
    assert found["kind"] == kind
    return found


def _load_cluster(kind: str) -> dict[str, Any]:
    spec = _load_manifest(kind)["spec"]
    for name in CLUSTER[kind]:
        spec = spec[name]
    return copy.deepcopy(spec)


@functools.cache
def _load_schema(kind: str) -> dict[str, Any]:
    path = SCHEMAS / f"ray.io_{kind.lower()}s.yaml"
    if not path.exists():
        pytest.skip(f"needs KubeRay's resource definitions: {path.name} in {SCHEMAS}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    definition = yaml.load(path.read_text(), Loader=loader)
    [version] = [it for it in definition["spec"]["versions"] if it["name"] == "v1"]
    schema: dict[str, Any] = _forbid_unknown_fields(version["schema"]["openAPIV3Schema"])
    schema["properties"]["metadata"] = {
        "type": "object",
        "properties": {"name": {"type": "string"}},
        "additionalProperties": False,
    }
    return schema


def _forbid_unknown_fields(schema: Any) -> Any:
    """Make the schema refuse unknown fields, as Kubernetes does with --validate=strict."""
    if isinstance(schema, list):
        return [_forbid_unknown_fields(it) for it in schema]
    if not isinstance(schema, dict):
        return schema
    closed = {name: _forbid_unknown_fields(it) for name, it in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get(ALLOWS_UNKNOWN):
        closed.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        closed["type"] = ["integer", "string"]
    return closed


def _find_errors(manifest: dict[str, Any]) -> list[str]:
    found = Draft202012Validator(_load_schema(manifest["kind"])).iter_errors(manifest)
    return [f"{'.'.join(map(str, error.path))}: {error.message[:200]}" for error in found]


@pytest.mark.parametrize("kind", CLUSTER)
def test_a_manifest_follows_kuberays_schema(kind: str) -> None:
    assert _find_errors(_load_manifest(kind)) == []


def test_a_typing_error_in_a_manifest_is_found() -> None:
    manifest = _load_manifest("RayCluster")
    worker = manifest["spec"]["workerGroupSpecs"][0]
    worker["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    worker["minReplicas"] = "0"
    assert [error.partition(":")[0] for error in sorted(_find_errors(manifest))] == [
        "spec.workerGroupSpecs.0.minReplicas",
        "spec.workerGroupSpecs.0.template.spec.containers.0",
    ]


@pytest.mark.parametrize("kind", ["RayJob", "RayService"])
def test_all_manifests_have_the_same_cluster(kind: str) -> None:
    ours, first = _load_cluster(kind), _load_cluster("RayCluster")
    for cluster in (ours, first) if kind == "RayService" else ():
        for group in cluster[
            "workerGroupSpecs"
        ]:  # pods of endpoints are ready when they answer requests
            del group["template"]["spec"]["containers"][0]["readinessProbe"]
    assert ours == first


def test_a_cluster_requires_its_token_and_contains_no_secret() -> None:
    cluster = _load_cluster("RayCluster")
    assert cluster["authOptions"] == {"mode": "token"}
    for pod in _list_pods(cluster):
        [container] = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        for variable in container["env"]:
            secret = any(word in variable["name"] for word in ("TOKEN", "KEY", "SECRET"))
            assert ("valueFrom" in variable) == secret, variable["name"]
        assert all(source.keys() == {"secretRef"} for source in container["envFrom"])
        assert {"readinessProbe", "livenessProbe"} <= container.keys()
        assert not container["image"].endswith("latest")


def test_gpu_pods_ask_for_gpus_and_tolerate_their_nodes() -> None:
    head, _, gpu = _list_pods(_load_cluster("RayCluster"))
    assert gpu["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == 8
    assert gpu["tolerations"] == [
        {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
    ]
    assert _load_cluster("RayCluster")["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert "nvidia.com/gpu" not in head["containers"][0]["resources"]["limits"]


def test_nodes_have_the_settings_of_other_clusters() -> None:
    script = (ROOT / "cluster" / "node.sh").read_text()
    for pod in _list_pods(_load_cluster("RayCluster")):
        given = {it["name"]: it.get("value") for it in pod["containers"][0]["env"]}
        for name in ("grpc_client_keepalive_time_ms", "grpc_client_keepalive_timeout_ms"):
            assert f"RAY_{name}={given[f'RAY_{name}']}" in script
        assert f"RAY_worker_niceness={given['RAY_worker_niceness']}" in script
        assert {name: given[name] for name in NODE_VARIABLES} == NODE_VARIABLES


def test_fetched_checkpoints_lie_in_the_scratch_volume() -> None:
    for pod in _list_pods(_load_cluster("RayCluster")):
        [container] = pod["containers"]
        given = {it["name"]: it.get("value") for it in container["env"]}
        mounts = {it["name"]: it["mountPath"] for it in container["volumeMounts"]}
        assert given["S4V_SCRATCH"] == mounts["scratch"]
        assert given["HF_HOME"].startswith(mounts["scratch"])


def test_the_service_has_the_applications_of_serve_config() -> None:
    ours = yaml.safe_load(_load_manifest("RayService")["spec"]["serveConfigV2"])
    file = yaml.safe_load((ROOT / "serve" / "config.yaml").read_text())
    assert ours["applications"] == file["applications"]
    assert ours["proxy_location"] == file["proxy_location"]
    assert ours["http_options"] == file["http_options"] | {"host": "0.0.0.0"}
    [application] = ServeDeploySchema.model_validate(ours).applications
    config = ServeConfig.model_validate(application.args)
    # The keys file is where the Secret is mounted.
    for pod in _list_pods(_load_cluster("RayService")):
        mounts = {it["name"]: it["mountPath"] for it in pod["containers"][0]["volumeMounts"]}
        assert config.guard.keys_file == f"{mounts['keys']}/keys"


def test_a_failed_job_is_retried_and_its_cluster_is_deleted() -> None:
    spec = _load_manifest("RayJob")["spec"]
    assert spec["entrypoint"].startswith("python ray_jobs/caption.py")
    assert spec["backoffLimit"] >= 1
    assert spec["shutdownAfterJobFinishes"] is True


def _list_pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]
