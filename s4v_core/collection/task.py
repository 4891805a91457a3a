"""Collecting as the flow's task: captioning by a teacher, whose answers are kept when they come."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from s4v_core.captioning.task import CaptionTask, PreparedImage
from s4v_core.collection.answer_store import AnswerStore, PaidAnswer, make_key
from s4v_core.engines.endpoint import is_free
from s4v_core.engines.endpoint_answers import CONTENT_FILTER, MODEL_REFUSAL
from s4v_core.engines.metering import Meter, estimate_usage, read_usage
from s4v_core.engines.requests import Generation, Generator, OnPiece, Picture, Request, fail
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.flow.budget import Limits
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.inputs.web_policy import WebPolicy
from s4v_core.records.captions import collected_contract
from s4v_core.records.contract import Contract

REJECTIONS = {CONTENT_FILTER: "content_filter", MODEL_REFUSAL: "model_refusal"}
"""Answers that are paid for and hold no caption, and the reasons of their rows."""

UNANSWERED = "batch_unanswered"
"""Reason of a row that no batch brought an answer for."""


@dataclass(frozen=True, slots=True)
class TaughtImage:
    """An image on its way to the teacher."""

    image: PreparedImage
    unit: int


@dataclass(frozen=True)
class CollectTask(Task[TaughtImage]):
    """Collects one caption per row.

    Attributes:
        caption: Prepares images, asks the questions and judges the answers.
        labels: Parts of each prompt, by its text.
        store: Where answers are kept.
        limits: Prices of the answers.
        asks: Whether the teacher is asked; if not, only kept answers become rows.
    """

    caption: CaptionTask
    labels: Mapping[str, str]
    store: AnswerStore
    limits: Limits
    meter: Meter | None = None
    asks: bool = True
    contract: Contract = field(default_factory=collected_contract)

    @property
    def picture_bytes(self) -> int:  # type: ignore[override]
        return self.caption.picture_bytes

    @property
    def max_file_bytes(self) -> int:  # type: ignore[override]
        return self.caption.max_file_bytes

    @property
    def web(self) -> WebPolicy:  # type: ignore[override]
        return self.caption.web

    def prepare(
        self, planned: dict[str, Any], content: bytes | str | None
    ) -> Prepared[TaughtImage]:
        prepared = self.caption.prepare(planned, content)
        return Prepared(TaughtImage(prepared.about, planned["unit"]), prepared.pictures)

    async def answer(
        self, about: TaughtImage, pictures: tuple[Picture, ...], engine: Generator
    ) -> Row:
        paying = PayingEngine(engine, self, about.unit)
        row = await self.caption.answer(about.image, pictures, paying)
        return self._complete(row, paying.paid)

    def fail(self, about: TaughtImage, reason: str) -> Row:
        return self._complete(self.caption.fail(about.image, reason), [])

    def price(self, request: Request, sampling: SamplingConfig, answer: Generation) -> int:
        """The cost of an answer, in millionths of the currency."""
        if is_free(answer):
            return 0
        return self.limits.price(read_usage(answer) or estimate_usage(request, sampling))

    def _complete(self, row: Row, paid: list[PaidAnswer]) -> Row:
        rejection = REJECTIONS.get(row["reason"] or "")
        if rejection:
            row = row | {"status": "rejected", "reason": rejection}
        last = paid[-1].answer if paid else None
        return row | {
            "prompt_parts": self.labels.get(row["prompt"]),
            "cost_micro": sum(one.cost for one in paid),
            "endpoint": last.endpoint if last else None,
            "served_model": last.model if last else None,
        }


class PayingEngine:
    """An engine for one row: answers come from the store, or are bought and kept there."""

    def __init__(self, engine: Generator, task: CollectTask, unit: int) -> None:
        self._engine, self._task, self._unit = engine, task, unit
        self.paid: list[PaidAnswer] = []

    @property
    def version(self) -> str:
        return self._engine.version

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        """The kept answer to a request, or the engine's.

        Raises:
            StorageError: An answer was paid for and cannot be kept.
            EngineError: As from the engine.
        """
        task, key = self._task, make_key(request, sampling)
        found = await asyncio.to_thread(task.store.find, self._unit, key)
        if found is None and not task.asks:
            return fail(UNANSWERED)
        if found is None:
            answer = await self._engine.generate(request, sampling, on_piece)
            found = PaidAnswer(answer, task.price(request, sampling, answer))
            if is_worth_keeping(answer):
                await asyncio.to_thread(task.store.keep, self._unit, key, found)
        self.paid.append(found)
        return found.answer


def is_worth_keeping(answer: Generation) -> bool:
    """Whether an answer is final: a request that was refused for its form may be sent otherwise."""
    return answer.text is not None or answer.reason in REJECTIONS or not is_free(answer)
