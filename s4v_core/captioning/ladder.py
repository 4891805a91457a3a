"""One image's way to a caption that passes the gate: the samplings of the ladder in turn."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from s4v_core.engines.requests import Generation, Judge, Request, SamplingConfig


@dataclass(frozen=True, slots=True)
class Ending:
    """How it ended with one image.

    Attributes:
        answer: The last attempt's; None where there was none.
        rung: Which of the samplings the answer was drawn with, from 1.
        more: Further captions.
        twin_of: Id of the image that was captioned instead.
    """

    status: str
    reason: str | None
    attempts: int
    answer: Generation | None
    rung: int = 1
    more: tuple[str, ...] = ()
    twin_of: str | None = None


class Generator(Protocol):
    """What an engine and a supervised engine have in common."""

    async def generate(self, request: Request, sampling: SamplingConfig) -> Generation:
        """One image's caption, or the reason why there is none."""
        ...


async def attempted(
    engine: Generator, request: Request, samplings: Sequence[SamplingConfig], gate: Judge
) -> Ending:
    """A caption that passes the gate, or how the last attempt ended."""
    reason = None
    for attempt, sampling in enumerate(samplings, 1):
        answer = await engine.generate(request, sampling)
        if answer.text is None:
            return Ending("error", answer.reason, attempt, answer, attempt)
        reason = gate.judge(answer.text, answer.finish_reason, request.prompt)
        if reason is None:
            return Ending("ok", None, attempt, answer, attempt)
    return Ending("rejected", reason, attempt, answer, attempt)
