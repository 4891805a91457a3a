"""Asking a model one question of a benchmark, as a task of the flow."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core.engines.requests import Generation, Generator, Picture, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.records.contract import Contract, Words, result_schema

ANSWERS = Contract(
    folder="answers",
    schema=result_schema(
        "answer_id",
        pa.field("benchmark", pa.string(), nullable=False),
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        # What the model said; null if it could not be asked.
        pa.field("answer", pa.string()),
        # What the engine or server said, where `reason` is its refusal.
        pa.field("reason_detail", pa.string()),
        pa.field("finish_reason", pa.string()),
        pa.field("prompt_tokens", pa.int32()),
        pa.field("output_tokens", pa.int32()),
        pa.field("image", pa.string()),
        pa.field("image_sha256", pa.string()),
        # How the image was framed: pad 336; null if the question has none.
        pa.field("framing", pa.string()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_revision", pa.string(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        # Settings of the engine that can change an answer, where they are not the defaults; JSON.
        pa.field("engine_settings", pa.string()),
        pa.field("sampling", pa.string(), nullable=False),
    ),
    key="answer_id",
    sums=("output_tokens", "attempts"),
    statistics=("answer_id", "benchmark", "status", "reason"),
    words=Words(rows="questions", made="answered", answers="answers"),
)
"""One row per question of every benchmark; a rotation of options is a question of its own."""


@dataclass(frozen=True, slots=True)
class Asked:
    """The row of a question in the plan: all that asking it takes, beside its image.

    Attributes:
        system: Replaces the template's own text at the beginning.
    """

    benchmark: str
    question_id: str
    prompt: str
    framing: Framing
    sampling: SamplingConfig
    system: str | None = None

    @property
    def answer_id(self) -> str:
        return f"{self.benchmark}/{self.question_id}"

    def dump(self) -> str:
        """The row's payload."""
        values = {name: getattr(self, name) for name in ("benchmark", "question_id", "prompt")}
        values |= {"framing": asdict(self.framing), "sampling": self.sampling.model_dump()}
        return json.dumps(values | {"system": self.system}, ensure_ascii=False)

    @classmethod
    def load(cls, payload: str) -> "Asked":
        values: dict[str, Any] = json.loads(payload)
        framing, sampling = Framing(**values["framing"]), SamplingConfig(**values["sampling"])
        return cls(**values | {"framing": framing, "sampling": sampling})


@dataclass(frozen=True, slots=True)
class PreparedQuestion:
    """A question on its way to the engine.

    Attributes:
        reason: Why it cannot be asked; None if it can.
        image: URI of its image; None if it has none.
    """

    asked: Asked
    reason: str | None = None
    image: str | None = None
    image_sha256: str | None = None


@dataclass(frozen=True)
class AnswerTask(Task[PreparedQuestion]):
    """Asks one question per row, greedily, once.

    Attributes:
        model, model_revision, engine_name, engine_settings: As the rows record them.
        largest: The framing whose pictures take the most bytes.
    """

    model: str
    model_revision: str
    engine_name: str
    engine_settings: Mapping[str, Any]
    largest: Framing
    decode: DecodeConfig = field(default_factory=DecodeConfig)
    contract = ANSWERS

    @property
    def picture_bytes(self) -> int:  # type: ignore[override]
        return self.largest.max_bytes

    @property
    def max_file_bytes(self) -> int:  # type: ignore[override]
        return self.decode.max_file_mib << 20

    def prepare(
        self, planned: dict[str, Any], content: bytes | str | None
    ) -> Prepared[PreparedQuestion]:
        about = PreparedQuestion(Asked.load(planned["payload"]), image=planned["uri"])
        if content is None:  # a question without an image
            return Prepared(about)
        if isinstance(content, str):
            return Prepared(replace(about, reason=content))
        about = replace(about, image_sha256=hashlib.sha256(content).hexdigest())
        decoded = _decoder(self.decode, about.asked.framing).decode(content)
        if isinstance(decoded, Refused):
            return Prepared(replace(about, reason=decoded.reason))
        shape = (decoded.pixel_height, decoded.pixel_width, 3)
        return Prepared(about, (np.frombuffer(decoded.pixels, np.uint8).reshape(shape),))

    async def answer(
        self, about: PreparedQuestion, pictures: tuple[Picture, ...], engine: Generator
    ) -> Row:
        if about.reason is not None:
            return self.fail(about, about.reason)
        asked = about.asked
        request = Request(
            key=asked.answer_id,
            content=about.image_sha256 or asked.answer_id,
            images=pictures,
            prompt=asked.prompt,
            system=asked.system,
        )
        found = await engine.generate(request, asked.sampling)
        return self._make_row(about, found, engine.version, attempts=1)

    def fail(self, about: PreparedQuestion, reason: str) -> Row:
        nothing = Generation(None, None, None, None, about.reason or reason)
        return self._make_row(about, nothing, self.engine_name, int(about.reason is None))

    def _make_row(
        self, about: PreparedQuestion, found: Generation, engine: str, attempts: int
    ) -> Row:
        asked = about.asked
        framing = f"{asked.framing.mode} {asked.framing.size_px}"
        return {
            "answer_id": asked.answer_id,
            "benchmark": asked.benchmark,
            "question_id": asked.question_id,
            "prompt": asked.prompt,
            "answer": found.text,
            "status": "error" if found.text is None else "ok",
            "reason": found.reason,
            "reason_detail": found.reason_detail,
            "attempts": attempts,
            "finish_reason": found.finish_reason,
            "prompt_tokens": found.prompt_tokens,
            "output_tokens": found.output_tokens,
            "image": about.image,
            "image_sha256": about.image_sha256,
            "framing": framing if about.image else None,
            "model": self.model,
            "model_revision": self.model_revision,
            "engine": engine,
            "engine_settings": json.dumps(self.engine_settings, sort_keys=True)
            if self.engine_settings
            else None,
            "sampling": asked.sampling.model_dump_json(),
        }


@lru_cache(maxsize=2)
def _decoder(config: DecodeConfig, framing: Framing) -> GuardedDecoder:
    """One child for each way of framing: starting one costs as much as decoding ten images."""
    return GuardedDecoder(config, framing)
