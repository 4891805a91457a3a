"""The exit code of a run says what became of it, the worst first."""

import re
from typing import Any

import pytest

from s4v_core.engines.settings import EngineSettings
from s4v_core.records.contract import Words
from s4v_core.runs.counts import RunCounts
from s4v_core.runs.figures import RunFigures, choose_advice, describe_figures
from s4v_core.runs.outcome import (
    DONE,
    FAILED,
    INCOMPLETE_INPUT,
    INTERRUPTED,
    NO_ANSWERS,
    Outcome,
)

WORDS = Words("images", "captioned", "captions")
NONE_OK = {"ok": 0, "error": 10}


def _outcome(notes: tuple[str, ...] = (), is_interrupted: bool = False, **changes: Any) -> Outcome:
    counts: dict[str, Any] = {"rows": 10, "units": 1, "done": 10, "ok": 10, "rejected": 0}
    counts |= {"error": 0, "missing": [], "foreign": []} | changes
    figures = RunFigures(0, 0, 0, 0, 0, 1.0, {}, "engine")
    return Outcome("out", RunCounts(**counts), figures, 0, is_interrupted, notes, WORDS)


DAMAGED = [{"uri": "a.tar", "images": 1, "damages": [{"kind": "bad_header", "offset": 0}]}]


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({}, DONE),
        ({"ok": 1, "error": 9}, DONE),
        (NONE_OK, NO_ANSWERS),
        ({"ok": 0, "rejected": 10}, NO_ANSWERS),
        (NONE_OK | {"damaged": DAMAGED}, NO_ANSWERS),
        (NONE_OK | {"notes": ("changed",)}, NO_ANSWERS),
        (NONE_OK | {"missing": [1]}, FAILED),
        (NONE_OK | {"foreign": [1]}, FAILED),
        (NONE_OK | {"missing": [1], "is_interrupted": True}, INTERRUPTED),
        (NONE_OK | {"is_interrupted": True}, NO_ANSWERS),
        ({"damaged": DAMAGED}, INCOMPLETE_INPUT),
        ({"notes": ("changed",)}, INCOMPLETE_INPUT),
        ({"missing": [1], "damaged": DAMAGED}, FAILED),
    ],
)
def test_exit_codes(changes: dict[str, Any], code: int) -> None:
    outcome = _outcome(**changes)
    assert outcome.exit_code == code
    assert ("nothing was captioned: no image of 10 is ok" in outcome.as_text()) == (
        code == NO_ANSWERS
    )


@pytest.mark.parametrize(
    ("engine", "knob"),
    [
        ("openai", "--settings.max-concurrent-requests"),
        ("transformers", "--settings.batch-size"),
        ("vllm", "--settings.max-num-seqs"),
        (None, "--settings.max-num-seqs"),
    ],
)
def test_advice_names_the_knobs_of_the_engine_in_use(engine: str | None, knob: str) -> None:
    figures = RunFigures(10, 10, 10, 0, 0, 1.0, {}, "engine", engine).as_dict()
    advice = choose_advice(figures)
    assert f"faster with {advice}" in describe_figures(figures, WORDS)
    assert knob in advice
    assert choose_advice(figures | {"bound_by": "read"}).startswith("a nearer store")


def test_figures_of_an_earlier_version_still_have_their_advice() -> None:
    figures = RunFigures(10, 10, 10, 0, 0, 1.0, {}, "engine").as_dict()
    del figures["engine"]
    assert "--settings.max-num-seqs" in describe_figures(figures, WORDS)


def test_every_knob_that_advice_names_is_a_setting() -> None:
    settings = {name.replace("_", "-") for name in EngineSettings.model_fields}
    for engine in (None, "openai", "transformers"):
        named = re.findall(
            r"--settings\.([a-z-]+)", choose_advice({"bound_by": "engine", "engine": engine})
        )
        assert named
        assert set(named) <= settings
