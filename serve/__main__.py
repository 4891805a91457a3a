"""Serves both endpoints on this machine: the demo captioner under both model names, with a new key.

python -m serve                        serve the demo at http://127.0.0.1:8000; no GPU, no download
python -m serve --config FILE          serve the first application of that file
python -m serve --self-check           list what protects the endpoints and start nothing
"""

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from s4v_core.errors import S4VError
from serve.keys import make_key
from serve.protections import list_protections

_ONE_REPLICA = {"min_replicas": 1, "max_replicas": 1}


def main(argv: list[str]) -> int:
    """Serve until Ctrl-C. Returns the exit code: 2 if the configuration cannot be used."""
    options = _make_parser().parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            if options.config:
                args = _read_args(options.config)
            else:
                args = _prepare_demo(options.engine, Path(folder))
            if options.self_check:
                print("\n".join(list_protections(args)))
                return 0
            return _serve(args, options.port)
    except (S4VError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


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


def _read_args(config: Path) -> dict[str, Any]:
    content = yaml.safe_load(config.read_text())
    args: dict[str, Any] = content["applications"][0]["args"]
    return args


def _prepare_demo(engine: str, folder: Path) -> dict[str, Any]:
    from serve.app import DEMO

    secret, line = make_key("demo")
    keys = folder / "keys"
    keys.write_text(f"{line}\n")
    print(f"A demo: the captioner knows drawn scenes and nothing else.\nkey: {secret}", flush=True)
    models = [
        model.model_dump() | {"engine": engine, "scaling": _ONE_REPLICA, "settings": {"cpus": 1}}
        for model in DEMO
    ]
    return {"models": models, "ingress": _ONE_REPLICA, "guard": {"keys_file": str(keys)}}


def _serve(args: dict[str, Any], port: int) -> int:
    from serve.app import build_application, check_args

    checked = check_args(args)
    import ray
    from ray import serve

    from s4v_core.flow.connection import set_normal_worker_priority
    from serve.front.shedding import CALLBACK, VARIABLE

    os.environ.setdefault(VARIABLE, CALLBACK)  # Ray's processes inherit it
    set_normal_worker_priority()
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(build_application(*checked), name="s4v")
        print(f"ready: http://127.0.0.1:{port}/ (Ctrl-C ends it)", flush=True)
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
