"""One request's way to an answer that passes its check: the samplings of the ladder in turn."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from pydantic import Field

from s4v_core.config import Config
from s4v_core.engines.requests import Generation, Generator, Request
from s4v_core.engines.sampling import SamplingConfig


class Ladder(Config):
    """Samplings that are tried in turn when the gate rejects a caption."""

    temperatures: tuple[float, ...] = (0.2, 0.5, 0.8)
    """Temperatures of the retry attempts, in turn. If empty, the first rejection is final."""
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    """Value of top_p for the retry attempts."""
    repetition_penalty: float = Field(1.05, gt=0.0)
    """Repetition penalty of the retry attempts."""

    def samplings(self, first: SamplingConfig) -> tuple[SamplingConfig, ...]:
        """`first`, and the samplings of the retries; each draws anew, even at one temperature."""
        return first, *(
            first.replace(
                temperature=temperature,
                top_p=self.top_p,
                repetition_penalty=max(self.repetition_penalty, first.repetition_penalty),
                seed=first.seed + number,
            )
            for number, temperature in enumerate(self.temperatures, 1)
        )


class Judge(Protocol):
    """Decides whether a text is a caption (the gate, as the ladder knows it)."""

    def judge(self, text: str, finish_reason: str | None, prompt: str) -> str | None:
        """The reason why the text is no caption, or None if it is one."""
        ...


@dataclass(frozen=True, slots=True)
class Verdict:
    """The findings about a caption beyond its text.

    Attributes:
        reason: Why the text is no caption of the image; None if it is one.
        quality: Its score; None if it was not scored.
        failure: What is wrong with the review itself; the row is then an error.
    """

    reason: str | None = None
    quality: float | None = None
    failure: str | None = None


class Review(Protocol):
    """Asked about a caption that the gate accepts, beside the engine that drew it."""

    async def review(self, request: Request, text: str) -> Verdict:
        """The findings about the caption."""
        ...


@dataclass(frozen=True, slots=True)
class Ending:
    """How the attempts for one image ended.

    Attributes:
        answer: The last attempt's answer; None if there was no attempt.
        rung: Which of the samplings the answer was drawn with, counted from 1.
        more: Further captions of the same image.
        twin_of: Id of the equal image that was captioned instead.
        quality: Score of the last attempt's caption; None if it was not scored.
    """

    status: str
    reason: str | None
    attempts: int
    answer: Generation | None
    rung: int = 1
    more: tuple[str, ...] = ()
    twin_of: str | None = None
    quality: float | None = None


async def climb_ladder(
    engine: Generator,
    request: Request,
    samplings: Sequence[SamplingConfig],
    gate: Judge,
    reviewer: Review | None = None,
) -> Ending:
    """Try one sampling after the other until a caption passes the gate.

    Args:
        reviewer: Asked about captions that the gate accepts.

    Returns:
        The caption that passed, or how the last attempt ended.
    """
    assert samplings, "there is a first sampling"
    for attempt, sampling in enumerate(samplings, 1):
        answer = await engine.generate(request, sampling)
        if answer.text is None:
            return Ending("error", answer.reason, attempt, answer, attempt)
        verdict = await _judge(request, answer.text, answer.finish_reason, gate, reviewer)
        reason, quality = verdict.reason, verdict.quality
        if reason is None:
            return Ending("ok", None, attempt, answer, attempt, quality=quality)
        if verdict.failure:
            answer = replace(answer, text=None, reason_detail=verdict.failure)
            return Ending("error", reason, attempt, answer, attempt, quality=quality)
    return Ending("rejected", reason, attempt, answer, attempt, quality=quality)


async def _judge(
    request: Request, text: str, finish_reason: str | None, gate: Judge, reviewer: Review | None
) -> Verdict:
    reason = gate.judge(text, finish_reason, request.prompt)
    if reason or reviewer is None:
        return Verdict(reason)
    return await reviewer.review(request, text)
