"""Serves both endpoints on this machine: the demo captioner under both model names, with a new key.

python -m serve                        serve the demo at http://127.0.0.1:8000; no GPU, no download
python -m serve --config FILE          serve the first application of that file
python -m serve --self-check           list what protects the endpoints and start nothing
"""

import argparse
import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from s4v_core.errors import ConfigError, S4VError
from serve.keys import make_key
from serve.protections import list_protections
from serve.settings import DEMO

_ONE_REPLICA = {"min_replicas": 1, "max_replicas": 1}


def main(argv: list[str]) -> int:
    """Serve until Ctrl-C. Returns the exit code: 2 if the configuration cannot be used."""
    options = _make_parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if options.config:
                plan = _read_plan(options.config)
            else:
                plan = _prepare_demo(options.engine, Path(folder))
            if options.self_check:
                print("\n".join(list_protections(plan.args, plan.live)))
                return 0
            refuse_unusable_port(options.port)
            return _serve(plan, options.port)
    except (S4VError, OSError, ValueError, yaml.YAMLError) as error:
        print("error: " + " ".join(str(error).split()), file=sys.stderr)
        return 2


@dataclass(frozen=True, slots=True)
class _Plan:
    """The application to serve.

    Attributes:
        args: Fields of ServeConfig.
        live: Numbers that can change without a deployment.
        words: Lines for the terminal, once the endpoints answer.
    """

    args: dict[str, Any]
    live: Mapping[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()


def _make_parser() -> argparse.ArgumentParser:
    layout = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser("python -m serve", description=__doc__, formatter_class=layout)
    config_help = "Serve configuration file, such as serve/config.yaml."
    parser.add_argument("--config", type=Path, help=config_help)
    engine_help = "Engine of the demo; fake loads no model."
    parser.add_argument("--engine", choices=("vllm", "fake"), default="vllm", help=engine_help)
    parser.add_argument("--port", type=int, default=8000, help="Port to listen on.")
    check_help = "List what protects the endpoints, then exit."
    parser.add_argument("--self-check", action="store_true", help=check_help)
    return parser


def _read_plan(config: Path) -> _Plan:
    """Read the first application of a Serve configuration file.

    Raises:
        ConfigError: It has none.
    """
    content = yaml.safe_load(config.read_text())
    try:
        application = content["applications"][0]
        deployments = application.get("deployments") or ()
        live = {one["name"]: one.get("user_config") or {} for one in deployments}
        args = dict(application["args"])
    except (AttributeError, IndexError, KeyError, TypeError, ValueError):
        raise ConfigError(
            f"config: found no application with args in {config}; see serve/config.yaml"
        ) from None
    return _Plan(args, live.get("Ingress", {}))


def _prepare_demo(engine: str, folder: Path) -> _Plan:
    secret, line = make_key("demo")
    keys = folder / "keys"
    keys.write_text(f"{line}\n")
    models = [
        model.model_dump() | {"engine": engine, "scaling": _ONE_REPLICA, "settings": {"cpus": 1}}
        for model in DEMO
    ]
    args = {"models": models, "ingress": _ONE_REPLICA, "guard": {"keys_file": str(keys)}}
    about = "A demo: the captioner knows drawn scenes and nothing else."
    return _Plan(args, words=(about, f"key: {secret}"))


def refuse_unusable_port(port: int) -> None:
    """Check that nobody else listens on a port of this machine.

    Raises:
        ConfigError: Somebody does, or there is no such port.
    """
    if not 1 <= port <= 65_535:
        raise ConfigError(f"port: found {port}, allowed 1 to 65535")
    with socket.socket() as probe:
        # Serve's own socket would share the port with another server's, and each of the two would
        # get half of the other's requests. This one does not share.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise ConfigError(
                f"port: {port} cannot be used ({error.strerror}); end the server that listens "
                "there, or choose another with --port"
            ) from None


def _serve(plan: _Plan, port: int) -> int:
    # Ray takes 127.0.0.1 for its node then, and so its metrics port listens on this machine alone.
    # The variable works on Linux in spite of its name, and is read when ray is first imported.
    os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its core writes to the terminal
    from serve.app import build_application, check_args
    from serve.front.node_variables import set_node_variables

    set_node_variables()
    checked = check_args(plan.args)
    checked[0].apply_changes(plan.live)
    import ray
    from ray import serve

    from s4v_core.flow.connection import set_normal_worker_priority

    set_normal_worker_priority()
    # What Serve reports on its way up would bury the key; its log files have it.
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        logging_level="ERROR",
        log_to_driver=False,
    )
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build_application(*checked, plan.live), name="s4v")
        ready = f"ready: http://127.0.0.1:{port}/ (Ctrl-C ends it)"
        print("\n".join((*plan.words, ready)), flush=True)
        while True:
            time.sleep(1)
    except KeyboardInterrupt:
        print("stopping")
    finally:
        serve.shutdown()
        ray.shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
