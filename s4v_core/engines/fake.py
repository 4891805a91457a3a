"""An engine whose caption is a function of the pixels, so that a swapped caption is seen.

For tests of everything around the engine, and for finding out what the rest of the pass can feed.
"""

import asyncio
import json
import os
import time
import zlib

import numpy as np

from s4v_core.engines.fake_answers import build_example
from s4v_core.engines.fake_faults import Fault, FaultyProcess, fault_of
from s4v_core.engines.fake_functions import is_function, load_function
from s4v_core.engines.requests import Generation, OnPiece, Picture, Request, refuse
from s4v_core.engines.sampling import SamplingConfig, cut_at_stop
from s4v_core.engines.settings import EngineSpec


def fake_caption(pixels: Picture) -> str:
    """The caption of a picture: its shape and a checksum of its pixels.

    CRC costs little beside decoding: with this engine one measures what a pass can feed.
    """
    height, width = pixels.shape[:2]
    checksum = zlib.crc32(np.ascontiguousarray(pixels).data)
    return f"A fake caption of a picture of {width} by {height} pixels, checksum {checksum:08x}."


class FakeEngine:
    """Needs no model."""

    def __init__(self, spec: EngineSpec) -> None:
        self.version = "fake"
        self.last_sign = time.monotonic()
        self._latency_s = spec.settings.fake_latency_s
        self.slots = spec.settings.max_num_seqs
        self.max_model_len = spec.settings.max_model_len
        self._names_question = spec.shares_images
        self._process = FaultyProcess() if spec.settings.fake_faults else None
        self._function = load_function(spec.model) if is_function(spec.model) else None

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        if refused := self._refuse_long(await self.tokenize(request)):
            return refused
        if self._function:
            answer = self._function(request, sampling)
            await asyncio.sleep(self._latency_s)
            self.last_sign = time.monotonic()
            return answer
        fault = None
        if self._process and request.images:
            fault = fault_of(request.images[0])
            await self._process.work(fault)
        answer = _make_answer(request, sampling, fault, self._names_question)
        if on_piece is None:
            await asyncio.sleep(self._latency_s)
        else:
            await self._stream(answer.text or "", on_piece)
        self.last_sign = time.monotonic()
        return answer

    async def tokenize(self, request: Request) -> list[int]:
        """One id per word of a request, and one per image."""
        earlier = (text for turn in request.earlier for text in turn)
        texts = [request.system or "", *earlier, request.prompt]
        words = [word for text in texts for word in text.split()]
        return [0] * len(request.images) + [zlib.crc32(word.encode()) for word in words]

    def _refuse_long(self, ids: list[int]) -> Generation | None:
        """Refuse a prompt that is too long, in vLLM's words."""
        if self.max_model_len is None or len(ids) < self.max_model_len:
            return None
        words = f"(length {len(ids)}) is longer than the maximum model length of"
        return refuse(ValueError(f"The decoder prompt {words} {self.max_model_len}."))

    async def _stream(self, text: str, on_piece: OnPiece) -> None:
        """Give the text word by word, over the time that one answer takes."""
        words = text.split(" ")
        for number, word in enumerate(words):
            await asyncio.sleep(self._latency_s / len(words))
            on_piece(f" {word}" if number else word)

    def kill(self) -> None:
        if self._process:
            self._process.kill()

    def close(self) -> None:
        self.kill()


def fake_field(pixels: Picture, prompt: str) -> str:
    """The answer where an image gets several questions: it names the one that it answers."""
    return f"{fake_caption(pixels)} Question {zlib.crc32(prompt.encode()):08x}."


def _make_answer(
    request: Request, sampling: SamplingConfig, fault: Fault | None, names_question: bool
) -> Generation:
    text, finish = f"A fake answer to {request.prompt!r}.", "stop"
    if request.images:
        text = " ".join(
            fake_field(image, request.prompt) if names_question else fake_caption(image)
            for image in request.images
        )
    if request.answer_schema:
        try:
            text = json.dumps(build_example(json.loads(request.answer_schema), text))
        # Schemas of users may hold anything in any place.
        except (
            ArithmeticError,
            AttributeError,
            LookupError,
            RuntimeError,
            TypeError,
            ValueError,
        ) as error:
            return refuse(error)
    text = cut_at_stop(sampling, request.prefill + text)
    if fault is Fault.WORKER:
        os._exit(1)
    if fault is Fault.GREED:
        len(b"1" * (3 << 30))
    if fault is Fault.REFUSAL or (fault is Fault.LOOP and sampling.temperature == 0):
        refusal = "I'm sorry, but I cannot describe this image."
        text = refusal if fault is Fault.REFUSAL else "The sky is blue. " * 40
        finish = "stop" if fault is Fault.REFUSAL else "length"
    return Generation(text, finish, len(request.prompt.split()), len(text.split()))
