"""Both endpoints on this machine: the demo captioner as both models, with a key made for you.

python -m serve                        http://127.0.0.1:8000, no GPU, no download
python -m serve --config FILE          the args of an application in that file, here
python -m serve --self-check           what protects the endpoints, and nothing is started
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
from serve.keys import new_key
from serve.protections import protections

HERE = {"min_replicas": 1, "max_replicas": 1}


def main(argv: list[str]) -> int:
    """Serves until Ctrl-C; 2 for a configuration that cannot be used."""
    parser = argparse.ArgumentParser("python -m serve", description=__doc__, formatter_class=RAW)
    parser.add_argument(
        "--config", type=Path, help="a Serve configuration file (serve/config.yaml)"
    )
    parser.add_argument("--engine", choices=("vllm", "fake"), default="vllm", help="of the demo")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--self-check", action="store_true", help="list the protections and leave")
    asked = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as folder:
            args = _args_of(asked.config) if asked.config else _demo(asked.engine, Path(folder))
            if asked.self_check:
                print("\n".join(protections(args)))
                return 0
            return _serve(args, asked.port)
    except (S4VError, OSError, yaml.YAMLError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


RAW = argparse.RawDescriptionHelpFormatter


def _args_of(config: Path) -> dict[str, Any]:
    found = yaml.safe_load(config.read_text())
    args: dict[str, Any] = found["applications"][0]["args"]
    return args


def _demo(engine: str, folder: Path) -> dict[str, Any]:
    from serve.app import DEMO

    secret, line = new_key("demo")
    keys = folder / "keys"
    keys.write_text(f"{line}\n")
    print(f"A demo: the captioner knows drawn scenes and nothing else.\nkey: {secret}", flush=True)
    models = [
        model.model_dump() | {"engine": engine, "scaling": HERE, "settings": {"cpus": 1}}
        for model in DEMO
    ]
    return {"models": models, "ingress": HERE, "guard": {"keys_file": str(keys)}}


def _serve(args: dict[str, Any], port: int) -> int:
    from serve.app import application, look_at_args

    found = look_at_args(args)
    import ray
    from ray import serve

    from s4v_core.flow.connection import start_workers_as_equals
    from serve.front.shedding import CALLBACK, VARIABLE

    os.environ.setdefault(VARIABLE, CALLBACK)  # Ray's processes inherit it
    start_workers_as_equals()
    ray.init(address="local", num_cpus=8, include_dashboard=False, logging_level="ERROR")
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        serve.run(application(*found), name="s4v")
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
