"""Captioning as the flow's task: an image becomes pixels and a prompt, and then a caption row."""

import asyncio
import hashlib
import json
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from s4v_core.captioning.ladder import Ending, Judge, climb_ladder
from s4v_core.captioning.prompts import Prompt, choose_prompt
from s4v_core.captioning.review import Reviewer
from s4v_core.captioning.twins import Dedupe, twin_key
from s4v_core.engines.requests import Generator, Picture, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.inputs.web_policy import WebPolicy
from s4v_core.records.captions import CAPTIONS

if TYPE_CHECKING:  # imports ray, which a forecast and --help do without
    from s4v_core.captioning.twin_registry import TwinRegistry

_MORE_TEMPERATURE = 0.7
_MORE_SEEDS = 1000
"""Distance of the seeds of further captions from those of the ladder."""


_WEB = WebPolicy()
_NO_REVIEW = Reviewer()


@dataclass(frozen=True, slots=True)
class PreparedImage:
    """Facts about an image that its caption row needs.

    Attributes:
        reason: Why the image cannot be captioned; None if it can.
        twin_key: Shared by equal images with equal prompts; None unless they are captioned once.
        width, height: As a person sees the image, pixels.
    """

    image_id: str
    uri: str
    source: str
    prompt: str
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
        samplings: The first attempt's, and those of the retries after a rejection.
        gate: Judges every caption; picklable.
        web: How images that are URLs are fetched.
        prompts: Each image gets one of them, chosen by its id.
        dedupe: Which images are captioned once.
        reviewer: Scores captions, and asks the gate's plug-ins.
        twins: Remembers captioned images; None if none are looked for.
    """

    model: str
    model_revision: str
    engine_name: str
    samplings: tuple[SamplingConfig, ...]
    gate: Judge
    decode: DecodeConfig
    framing: Framing
    prompts: tuple[Prompt, ...]
    web: WebPolicy = _WEB
    captions_per_image: int = 1
    engine_settings: str | None = None
    dedupe: Dedupe = "off"
    reviewer: Reviewer = _NO_REVIEW
    twins: "TwinRegistry | None" = None
    contract = CAPTIONS

    @property
    def picture_bytes(self) -> int:  # type: ignore[override]
        return self.framing.max_bytes

    @property
    def reads_payloads(self) -> bool:  # type: ignore[override]
        return any(prompt.columns for prompt in self.prompts)

    @property
    def max_file_bytes(self) -> int:  # type: ignore[override]
        return self.decode.max_file_mib << 20

    def without_neighbours(self) -> "CaptionTask":
        return replace(self, twins=None)

    def prepare(
        self, planned: dict[str, Any], content: bytes | str | None
    ) -> Prepared[PreparedImage]:
        prompt, problem = choose_prompt(self.prompts, planned)
        about = PreparedImage(planned["image_id"], planned["uri"], planned["source"], prompt)
        if isinstance(content, str) or content is None:
            return Prepared(replace(about, reason=content or "not_found"))
        about = replace(about, image_sha256=hashlib.sha256(content).hexdigest())
        if problem:
            return Prepared(replace(about, reason=problem))
        return self._decode(about, content)

    async def answer(
        self, about: PreparedImage, pictures: tuple[Picture, ...], engine: Generator
    ) -> Row:
        ending = await self._end_image(about, pictures, engine)
        return self._make_row(about, ending, engine.version)

    def fail(self, about: PreparedImage, reason: str) -> Row:
        ending = Ending("error", about.reason or reason, 1, None)
        return self._make_row(about, ending, self.engine_name)

    def _decode(self, about: PreparedImage, content: bytes) -> Prepared[PreparedImage]:
        decoded = _decoder(self.decode, self.framing).decode(content)
        if isinstance(decoded, Refused):
            return Prepared(replace(about, reason=decoded.reason))
        pixels, width = decoded.pixels, decoded.pixel_width
        key = twin_key(self.dedupe, about.image_sha256 or "", pixels, width, about.prompt)
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
    ) -> Ending:
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
    ) -> Ending:
        if about.reason is not None:
            return Ending("error", about.reason, 0, None)
        request = Request(about.image_id, about.image_sha256 or "", pictures, about.prompt)
        end = await climb_ladder(engine, request, self.samplings, self.gate, self.reviewer)
        if end.status != "ok":
            return end
        first = self.samplings[end.rung - 1]
        return replace(end, more=await self._draw_more(request, first, engine))

    async def _draw_more(
        self, request: Request, first: SamplingConfig, engine: Generator
    ) -> tuple[str, ...]:
        """Other captions of the same image, drawn at a higher temperature, that pass the gate."""
        warm = max(first.temperature, _MORE_TEMPERATURE)
        samplings = [
            first.replace(temperature=warm, seed=first.seed + _MORE_SEEDS + number)
            for number in range(self.captions_per_image - 1)
        ]
        answers = await asyncio.gather(
            *(engine.generate(request, sampling) for sampling in samplings)
        )
        texts = [
            answer.text
            for answer in answers
            if answer.text
            and not self.gate.judge(answer.text, answer.finish_reason, request.prompt)
        ]
        if not self.reviewer.has_rules:  # their scores stand in no column
            return tuple(texts)
        verdicts = await asyncio.gather(*(self.reviewer.review(request, one) for one in texts))
        return tuple(one for one, found in zip(texts, verdicts, strict=True) if not found.reason)

    def _make_row(self, about: PreparedImage, end: Ending, engine: str) -> Row:
        answer = end.answer
        return {
            "image_id": about.image_id,
            "uri": about.uri,
            "source": about.source,
            "prompt": about.prompt,
            "image_sha256": about.image_sha256,
            "image_format": about.image_format,
            "image_flags": about.image_flags,
            "width": about.width,
            "height": about.height,
            "caption": answer.text if answer else None,
            "status": end.status,
            "reason": end.reason,
            "reason_detail": answer.reason_detail if answer and end.status == "error" else None,
            "quality": end.quality,
            "attempts": end.attempts,
            "twin_of": end.twin_of,
            "more_captions": list(end.more) or None,
            "finish_reason": answer.finish_reason if answer else None,
            "prompt_tokens": answer.prompt_tokens if answer else None,
            "output_tokens": answer.output_tokens if answer else None,
            "thinking_tokens": answer.thinking_tokens if answer else None,
            "model": self.model,
            "model_revision": self.model_revision,
            "engine": engine,
            "engine_settings": self.engine_settings,
            "sampling": _dump_sampling(self.samplings[end.rung - 1]),
        }


@lru_cache(maxsize=64)
def _dump_sampling(sampling: SamplingConfig) -> str:
    return json.dumps(sampling.model_dump(), sort_keys=True)


@lru_cache(maxsize=1)
def _decoder(config: DecodeConfig, framing: Framing) -> GuardedDecoder:
    """One child per worker process: starting one costs as much as decoding ten images."""
    return GuardedDecoder(config, framing)
