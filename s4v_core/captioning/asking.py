"""Asks every field of one image, and says how each of them ended. Knows no rows and no decoding.

Fields that need no other are asked at once and one behind the other, so that an engine that keeps
prefixes computes the image's only once: the second request finds what the first one has computed,
and is still in use, whatever else fills the cache.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from s4v_core.captioning.fields import CaptionField, find_main
from s4v_core.captioning.prompts import Question
from s4v_core.captioning.review import Reviewer
from s4v_core.engines.ladder import Ending, climb_ladder
from s4v_core.engines.requests import Generator, Request
from s4v_core.engines.sampling import SamplingConfig

NO_REVIEW = Reviewer()
"""Accepts every text, and scores none."""

_MORE_TEMPERATURE = 0.7
_MORE_SEEDS = 1000
"""Distance of the seeds of further captions from those of the ladder."""


@dataclass(frozen=True, slots=True)
class FieldAnswer:
    """How one field of an image ended.

    Attributes:
        prompt: The question, with all its values.
        end: How its attempts ended; `end.more` holds further texts.
        text: The text of its column, if it is ok.
    """

    prompt: str
    end: Ending
    text: str | None = None

    @property
    def is_ok(self) -> bool:
        return self.end.status == "ok"


@dataclass(frozen=True, slots=True)
class ImageEnding:
    """How one image ended.

    Attributes:
        status, reason: Of the whole row.
        attempts: Answers of all fields together.
        answers: One per field; empty if the image could not be asked at all.
        twin_of: Id of the equal image that was asked instead.
    """

    status: str
    reason: str | None
    attempts: int
    answers: tuple[FieldAnswer, ...] = ()
    twin_of: str | None = None


async def ask_image(
    fields: Sequence[CaptionField],
    questions: Sequence[Question],
    request: Request,
    engine: Generator,
    texts_per_field: int = 1,
    reviewer: Reviewer = NO_REVIEW,
) -> ImageEnding:
    """Ask all fields of one image.

    Args:
        questions: One per field.
        request: A request with the image; questions and rules are filled in.
        texts_per_field: Texts of each field; those beyond the first are drawn at a higher
            temperature.
        reviewer: Reviews the texts of the main field; its plug-ins are asked about every field.
    """
    main = fields[find_main(fields)].name
    asker = _Asker(request, engine, texts_per_field, reviewer, main)
    if len(fields) == 1:
        only = await asker.ask(fields[0], questions[0], {})
        return ImageEnding(only.end.status, only.end.reason, only.end.attempts, (only,))
    answers = await _ask_all(asker, fields, questions)
    failed = [
        (answer.end.status, f"{field.name}:{answer.end.reason}")
        for field, answer in zip(fields, answers, strict=True)
        if not answer.is_ok
    ]
    # An error says more about the row than a rejection: nothing may ever come of it.
    failed.sort(key=lambda one: one[0] != "error")
    status, reason = failed[0] if failed else ("ok", None)
    attempts = sum(answer.end.attempts for answer in answers)
    return ImageEnding(status, reason, attempts, answers)


async def _ask_all(
    asker: "_Asker", fields: Sequence[CaptionField], questions: Sequence[Question]
) -> tuple[FieldAnswer, ...]:
    tasks: dict[str, asyncio.Task[FieldAnswer]] = {}
    for field, question in zip(fields, questions, strict=True):
        tasks[field.name] = asyncio.create_task(asker.ask(field, question, dict(tasks)))
    try:
        return tuple(await asyncio.gather(*tasks.values()))
    except BaseException:
        for task in tasks.values():
            task.cancel()
        await asyncio.gather(*tasks.values(), return_exceptions=True)
        raise


@dataclass(frozen=True, slots=True)
class _Asker:
    """Asks the fields of one image; holds all that they have in common."""

    request: Request
    engine: Generator
    texts_per_field: int
    reviewer: Reviewer
    main: str

    async def ask(
        self,
        field: CaptionField,
        question: Question,
        earlier: Mapping[str, "asyncio.Task[FieldAnswer]"],
    ) -> FieldAnswer:
        """Ask one field, after those that its question needs."""
        if question.problem:
            return FieldAnswer(question.text, Ending("error", question.problem, 0, None))
        answers: dict[str, str] = {}
        for name in question.needs:
            found = await earlier[name]
            if found.text is None:
                end = Ending(found.end.status, f"needs:{name}", 0, None)
                return FieldAnswer(question.text, end)
            answers[name] = found.text
        return await self._ask(field, question.fill(answers))

    async def _ask(self, field: CaptionField, prompt: str) -> FieldAnswer:
        request = replace(
            self.request, prompt=prompt, prefill=field.prefill, answer_schema=field.schema
        )
        reviewer = self._choose_reviewer(field)
        end = await climb_ladder(self.engine, request, field.samplings, field.judge, reviewer)
        if end.status != "ok" or end.answer is None or end.answer.text is None:
            return FieldAnswer(prompt, end)
        more = await self._draw_more(request, field, field.samplings[end.rung - 1])
        return FieldAnswer(prompt, replace(end, more=more), field.finish.apply(end.answer.text))

    async def _draw_more(
        self, request: Request, field: CaptionField, first: SamplingConfig
    ) -> tuple[str, ...]:
        """Other texts of the same field, drawn at a higher temperature, that pass the gate."""
        warm = max(first.temperature, _MORE_TEMPERATURE)
        samplings = [
            first.replace(temperature=warm, seed=first.seed + _MORE_SEEDS + number)
            for number in range(self.texts_per_field - 1)
        ]
        answers = await asyncio.gather(
            *(self.engine.generate(request, sampling) for sampling in samplings)
        )
        judge, reviewer = field.judge, self._choose_reviewer(field)
        texts = [
            answer.text
            for answer in answers
            if answer.text and not judge.judge(answer.text, answer.finish_reason, request.prompt)
        ]
        if reviewer.has_rules:  # the scores of further texts stand in no column
            found = await asyncio.gather(*(reviewer.review(request, text) for text in texts))
            texts = [text for text, one in zip(texts, found, strict=True) if not one.reason]
        return tuple(map(field.finish.apply, texts))

    def _choose_reviewer(self, field: CaptionField) -> Reviewer:
        """The whole review for the main field, whose score has a column; plug-ins for others."""
        is_main = field.name == self.main
        return self.reviewer if is_main else Reviewer(plugins=self.reviewer.plugins)
