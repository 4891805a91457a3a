"""An engine whose caption is a function of the pixels, so that a swapped caption is seen.

For tests of everything around the engine, and for finding out what the rest of the pass can feed.
"""

import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from s4v_core.generation.requests import EngineSpec, Generation, Request, SamplingConfig


def fake_caption(pixels: npt.NDArray[np.uint8]) -> str:
    """The caption of a picture: its shape and the hash of its pixels."""
    height, width = pixels.shape[:2]
    digest = hashlib.sha256(np.ascontiguousarray(pixels).data).hexdigest()
    return f"A fake caption of a picture of {width} by {height} pixels with the hash {digest}."


class FakeEngine:
    """Needs no model."""

    def __init__(self, spec: EngineSpec) -> None:
        self.version = "fake"
        self._latency_s = spec.settings.fake_latency_s
        self._slots = asyncio.Semaphore(spec.settings.max_num_seqs)

    async def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig
    ) -> list[Generation]:
        if not self._latency_s:
            return [self._answer(request) for request in requests]
        return list(await asyncio.gather(*map(self._answer_slowly, requests)))

    async def _answer_slowly(self, request: Request) -> Generation:
        async with self._slots:
            await asyncio.sleep(self._latency_s)
        return self._answer(request)

    def _answer(self, request: Request) -> Generation:
        text = fake_caption(request.pixels)
        return Generation(text, "stop", len(request.prompt.split()), len(text.split()))

    def close(self) -> None:
        pass
