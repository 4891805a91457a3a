"""Captions what the packages wrote, and compares what they read with the oracle."""

import json
import os
import subprocess
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.job import CaptionJob
from s4v_core.images.policy import DecodeConfig
from s4v_core.runs.outcome import DONE
from tests.flow.oracle import check_rows, fake_caption_of
from tests.writers.pictures import read_number
from tests.writers.samples import Sample, load_samples

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("S4V_WRITERS_PYTHON", ROOT / ".venv-writers" / "bin" / "python"))
"""Interpreter of the environment that has the packages (requirements.txt)."""

needs_packages = pytest.mark.skipif(
    not PYTHON.exists(),
    reason=f"no {PYTHON}: run `make test-writers`, or name the interpreter in S4V_WRITERS_PYTHON",
)


def call_package(module: str, function: str, **arguments: Any) -> None:
    """Call a function of a module of this folder in the packages' environment."""
    command = [str(PYTHON), "-m", f"tests.writers.{module}", function, json.dumps(arguments)]
    offline = {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "disabled", "NO_ALBUMENTATIONS_UPDATE": "1"}
    environment = os.environ | offline | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def read_with(module: str, function: str, folder: Path, **arguments: Any) -> list[Sample]:
    """Call a reader in the packages' environment; returns what it found.

    Args:
        folder: Where the reader may write.
    """
    folder.mkdir(exist_ok=True)
    to = folder / f"{module}_{function}.jsonl"
    call_package(module, function, to=str(to), cache=str(folder / "cache"), **arguments)
    return load_samples(str(to))


def caption(
    output: Path, inputs: Sequence[Path | str], exit_code: int = DONE, **changes: Any
) -> dict[str, dict[str, Any]]:
    """Caption inputs with the fake engine; returns the rows by id."""
    outcome = run_pass(
        CaptionJob(
            input=tuple(map(str, inputs)),
            output=str(output),
            model="none",
            engine="fake",
            unit_size=5,
            decode=DecodeConfig(reduced_jpeg=False),
            **changes,
        )
    )
    assert outcome.exit_code == exit_code, outcome.as_text()
    return {row["image_id"]: row for row in check_rows(output)}


def check_samples(samples: Sequence[Sample], numbers: Iterable[int]) -> None:
    """Check that each of these pictures is there once, with the caption of its own pixels."""
    found = [read_number(sample.image) for sample in samples]
    assert sorted(found) == sorted(numbers)
    for sample, number in zip(samples, found, strict=True):
        assert sample.caption == fake_caption_of(sample.image), sample.key
        assert sample.number in (None, number), sample.key
    assert len({sample.caption for sample in samples}) == len(samples)
