"""Runs the toy task with engines that span two nodes' worth of GPUs, on a Ray that has four GPUs by
name only; the engine itself is the fake one."""

import logging
import sys
from dataclasses import replace

import ray
from ray.util import placement_group_table

from examples.count_words import CountWords
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.flow.connection import connect
from s4v_core.flow.spec import Engines
from s4v_core.runs.table_run import run_rows


def main(output: str) -> None:
    ray.init(
        address="local",
        num_cpus=8,
        num_gpus=4,
        include_dashboard=False,
        logging_level=logging.ERROR,
    )
    try:
        connect(2, 8, 8)
    except ConfigError as error:
        _show(f"refused: {error}")
    engine = choose_engine("fake", "none", "model", EngineSettings(cpus=1, max_num_seqs=16))
    settings = engine.settings.replace(nodes_per_engine=2)
    engine = replace(engine, settings=settings, device="gpu")
    texts = [{"text_id": f"{n:03d}", "payload": "word " * (n % 7 + 1)} for n in range(60)]
    outcome = run_rows(CountWords(), texts, output, engine, engines=Engines(2), unit_size=20)
    _show(outcome.as_text())
    groups = [g for g in placement_group_table().values() if g["name"].startswith("s4v ")]
    for group in groups:
        sizes = sorted((sorted(bundle.items()) for bundle in group["bundles"].values()), key=str)
        _show(f"group: {group['state']} {group['strategy']} {sizes}")


def _show(line: str) -> None:
    sys.stdout.write(f"{line}\n")


if __name__ == "__main__":
    main(sys.argv[1])
