"""Captioning as the flow's task: an image becomes pixels and a prompt, and then a caption row."""

import hashlib
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from s4v_core.captioning.asking import NO_REVIEW, ImageEnding, ask_image
from s4v_core.captioning.field_rows import build_answer_columns, build_field_columns
from s4v_core.captioning.fields import CaptionField, find_main, list_columns
from s4v_core.captioning.prompts import Question, choose_question
from s4v_core.captioning.review import Reviewer
from s4v_core.captioning.twins import Dedupe, twin_key
from s4v_core.engines.requests import Generator, Picture, Request
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.inputs.web_policy import WebPolicy
from s4v_core.records.captions import CAPTIONS
from s4v_core.records.contract import Contract

if TYPE_CHECKING:  # imports ray, which a forecast and --help do without
    from s4v_core.captioning.twin_registry import TwinRegistry

_WEB = WebPolicy()


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """Facts about an image that its caption row needs.

    Attributes:
        questions: One per field.
        reason: Why the image cannot be captioned; None if it can.
        twin_key: Shared by equal images with equal questions; None unless they are captioned once.
        width, height: As a person sees the image, pixels.
    """

    image_id: str
    uri: str
    source: str
    questions: tuple[Question, ...]
    reason: str | None = None
    image_sha256: str | None = None
    image_format: str | None = None
    image_flags: str | None = None
    width: int | None = None
    height: int | None = None
    twin_key: str | None = None


@dataclass(frozen=True)
class CaptionTask(Task[PreparedImage]):
    """Captions one image per row.

    Attributes:
        model, model_revision, engine_name, engine_settings: As the rows record them.
        contract: Columns of the rows, which follow from the fields.
        fields: Texts that each image gets, in the order in which they are asked.
        web: How images that are URLs are fetched.
        captions_per_image: Texts of each field.
        dedupe: Which images are captioned once.
        reviewer: Scores captions, and asks the gate's plug-ins.
        twins: Remembers captioned images; None if none are looked for.
    """

    model: str
    model_revision: str
    engine_name: str
    fields: tuple[CaptionField, ...]
    decode: DecodeConfig
    framing: Framing
    web: WebPolicy = _WEB
    captions_per_image: int = 1
    engine_settings: str | None = None
    dedupe: Dedupe = "off"
    reviewer: Reviewer = NO_REVIEW
    twins: "TwinRegistry | None" = None
    contract: Contract = CAPTIONS

    @property
    def picture_bytes(self) -> int:  # type: ignore[override]
        return self.framing.max_bytes

    @property
    def reads_payloads(self) -> bool:  # type: ignore[override]
        return bool(list_columns(self.fields))

    @property
    def max_file_bytes(self) -> int:  # type: ignore[override]
        return self.decode.max_file_mib << 20

    def without_neighbours(self) -> "CaptionTask":
        return replace(self, twins=None)

    def prepare(
        self, planned: dict[str, Any], content: bytes | str | None
    ) -> Prepared[PreparedImage]:
        questions = self._choose_questions(planned)
        about = PreparedImage(planned["image_id"], planned["uri"], planned["source"], questions)
        if isinstance(content, str) or content is None:
            return Prepared(replace(about, reason=content or "not_found"))
        about = replace(about, image_sha256=hashlib.sha256(content).hexdigest())
        if all(question.problem for question in questions):  # there is nothing to ask
            return Prepared(replace(about, reason=questions[0].problem))
        return self._decode(about, content)

    async def answer(
        self, about: PreparedImage, pictures: tuple[Picture, ...], engine: Generator
    ) -> Row:
        ending = await self._end_image(about, pictures, engine)
        return self._make_row(about, ending, engine.version)

    def fail(self, about: PreparedImage, reason: str) -> Row:
        ending = ImageEnding("error", about.reason or reason, 1)
        return self._make_row(about, ending, self.engine_name)

    def _choose_questions(self, planned: dict[str, Any]) -> tuple[Question, ...]:
        names = [field.name for field in self.fields]
        return tuple(
            choose_question(field.prompts, planned, names[:at])
            for at, field in enumerate(self.fields)
        )

    def _decode(self, about: PreparedImage, content: bytes) -> Prepared[PreparedImage]:
        decoded = _decoder(self.decode, self.framing).decode(content)
        if isinstance(decoded, Refused):
            return Prepared(replace(about, reason=decoded.reason))
        pixels, width = decoded.pixels, decoded.pixel_width
        asked = repr(about.questions) if len(self.fields) > 1 else about.questions[0].text
        key = twin_key(self.dedupe, about.image_sha256 or "", pixels, width, asked)
        about = replace(
            about,
            width=decoded.width,
            height=decoded.height,
            image_format=decoded.format,
            image_flags=decoded.flags,
            twin_key=key,
        )
        shape = (decoded.pixel_height, width, 3)
        return Prepared(about, (np.frombuffer(pixels, np.uint8).reshape(shape),))

    async def _end_image(
        self, about: PreparedImage, pictures: tuple[Picture, ...], engine: Generator
    ) -> ImageEnding:
        """How captioning one image ends, or how it ended for an equal one."""
        twins, key = self.twins, about.twin_key
        if twins is None or key is None:
            return await self._caption(about, pictures, engine)
        if found := await twins.claim(key, about.image_id):
            return found
        ending = await self._caption(about, pictures, engine)
        await twins.settle(key, about.image_id, ending)
        return ending

    async def _caption(
        self, about: PreparedImage, pictures: tuple[Picture, ...], engine: Generator
    ) -> ImageEnding:
        if about.reason is not None:
            return ImageEnding("error", about.reason, 0)
        request = Request(about.image_id, about.image_sha256 or "", pictures, "")
        return await ask_image(
            self.fields, about.questions, request, engine, self.captions_per_image, self.reviewer
        )

    def _make_row(self, about: PreparedImage, end: ImageEnding, engine: str) -> Row:
        main = find_main(self.fields)
        prompt = end.answers[main].prompt if end.answers else about.questions[main].text
        known = {
            "image_id": about.image_id,
            "uri": about.uri,
            "source": about.source,
            "prompt": prompt,
            "image_sha256": about.image_sha256,
            "image_format": about.image_format,
            "image_flags": about.image_flags,
            "width": about.width,
            "height": about.height,
            "model": self.model,
            "model_revision": self.model_revision,
            "engine": engine,
            "engine_settings": self.engine_settings,
        }
        answered = build_answer_columns(self.fields, end)
        return known | answered | build_field_columns(self.fields, end, self.contract)


@lru_cache(maxsize=1)
def _decoder(config: DecodeConfig, framing: Framing) -> GuardedDecoder:
    """One child per worker process: starting one costs as much as decoding ten images."""
    return GuardedDecoder(config, framing)
