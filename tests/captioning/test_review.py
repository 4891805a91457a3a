"""After the gate's text rules: the user's plug-ins, and what the ladder makes of their verdict."""

import asyncio
from collections.abc import Iterator

import numpy as np
import pytest

from s4v_core.captioning.gate import Gate
from s4v_core.captioning.gate_plugins import identify_plugins, load_plugin
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.review import Reviewer
from s4v_core.engines.ladder import Ending, Ladder, Verdict, climb_ladder
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import ConfigError
from serve.settings import ModelConfig

HERE = "tests.captioning.plugins"
LIGHT, DARK = np.full((8, 8, 3), 200, np.uint8), np.zeros((8, 8, 3), np.uint8)


class _Writer:
    """Answers with one text after the other."""

    version = "writer"

    def __init__(self, *texts: str) -> None:
        self._texts: Iterator[str] = iter(texts)

    async def generate(self, request, sampling, on_piece=None) -> Generation:
        text = next(self._texts)
        return Generation(text, "stop", 1, len(text.split()))


def _climb(writer: _Writer, reviewer, picture=LIGHT) -> Ending:
    samplings = Ladder().samplings(SamplingConfig())
    request = Request("1", "1", (picture,), "Describe it.")
    return asyncio.run(climb_ladder(writer, request, samplings, Gate(), reviewer))


def test_a_plugin_makes_the_ladder_draw_again() -> None:
    writer = _Writer("Write to a@b.org for more pictures.", "A pale picture of a wall.")
    end = _climb(writer, Reviewer(plugins=(f"{HERE}:refuse_dark", f"{HERE}:refuse_mail_addresses")))
    assert (end.status, end.attempts, end.rung) == ("ok", 2, 2)
    assert end.answer is not None
    assert end.answer.text == "A pale picture of a wall."


def test_what_a_plugin_always_rejects_is_rejected_with_its_reason() -> None:
    end = _climb(
        _Writer(*["A black picture."] * 9), Reviewer(plugins=(f"{HERE}:refuse_dark",)), DARK
    )
    assert (end.status, end.reason, end.attempts) == ("rejected", "dark", 4)


@pytest.mark.parametrize(
    ("name", "kind"), [("fail", "RuntimeError"), ("answer_nonsense", "TypeError")]
)
def test_a_plugin_that_fails_lets_nothing_through(name: str, kind: str) -> None:
    end = _climb(_Writer("A pale picture of a wall."), Reviewer(plugins=(f"{HERE}:{name}",)))
    assert (end.status, end.reason, end.attempts) == ("error", f"plugin_failed:{kind}", 1)
    assert end.answer is not None
    assert end.answer.text is None
    assert f"{HERE}:{name}" in (end.answer.reason_detail or "")


def test_a_low_score_is_drawn_again_and_the_row_keeps_the_last_one() -> None:
    class Scores:
        def __init__(self, *scores: float) -> None:
            self._scores = iter(scores)

        async def review(self, request: Request, text: str) -> Verdict:
            score = next(self._scores)
            return Verdict("low_quality" if score < 0.5 else None, score)

    text = "A pale picture of a wall."
    end = _climb(_Writer(*[text] * 4), Scores(0.1, 0.4, 0.6))
    assert (end.status, end.attempts, end.quality) == ("ok", 3, 0.6)
    end = _climb(_Writer(*[text] * 4), Scores(0.1, 0.4, 0.2, 0.3))
    assert (end.status, end.reason, end.quality) == ("rejected", "low_quality", 0.3)


def test_a_plugin_is_identified_by_its_file() -> None:
    found = identify_plugins([f"{HERE}:refuse_dark", "math:hypot"])
    assert found[f"{HERE}:refuse_dark"].startswith("sha256:")
    assert list(found) == [f"{HERE}:refuse_dark", "math:hypot"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("plugins", "allowed MODULE:FUNCTION"),
        ("no.such.module:f", "cannot be imported .ModuleNotFoundError"),
        (f"{HERE}:nothing", "is no function"),
        (f"{HERE}:wait", "is no function"),
    ],
)
def test_a_plugin_that_cannot_be_called_is_refused(name: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        load_plugin(name)


def test_rules_that_need_more_than_text_are_refused_where_they_cannot_work() -> None:
    with pytest.raises(ConfigError, match=r"set --quality\.model"):
        CaptionJob(input=("a",), output="b", model="c", gate=Gate(min_quality=0.5))
    for gate in (Gate(min_quality=0.5), Gate(plugin=(f"{HERE}:refuse_dark",))):
        with pytest.raises(ConfigError, match="only a batch pass"):
            ModelConfig(id="m", path="m", gate=gate)
