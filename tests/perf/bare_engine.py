"""vLLM alone, the upper limit that `caption.py` is compared with."""

import asyncio
import itertools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from s4v_core import chat, prompts
from s4v_core.images.decoding import decode_image
from s4v_core.images.policy import DecodeConfig, Decoded
from s4v_core.model.checkpoint_facts import read_facts
from tests.perf.vllm_pass import ENGINE, TOKENS, MeasuredWay, Report


class Bare(MeasuredWay):
    """vLLM's AsyncLLM, which gets all requests at once, with decoded and framed pictures."""

    def __init__(self, checkpoint: Path, images: Sequence[bytes]) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        super().__init__("other", "engine's actor")
        framing = read_facts(str(checkpoint)).framing
        self._pictures = [_decode_and_frame(image, framing) for image in images]
        self._prompt = chat.VICUNA_V1.render(prompts.CAPTION)
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count()
        arguments = AsyncEngineArgs(model=str(checkpoint), disable_log_stats=True, **ENGINE)
        asyncio.set_event_loop(self._loop)
        self._engine = AsyncLLM.from_engine_args(arguments)
        self._loop.run_until_complete(self._caption_one(self._pictures[0]))

    def close(self) -> None:
        self._engine.shutdown()
        del self._engine  # otherwise it shuts down again when modules are already unloaded

    def _report(self) -> Report:
        ends = self._loop.run_until_complete(self._caption_all())
        done_at, prompt_tokens, output_tokens = map(list, zip(*ends, strict=True))
        return Report(done_at, prompt_tokens, output_tokens)

    async def _caption_all(self) -> list[tuple[float, int, int]]:
        return await asyncio.gather(*map(self._caption_one, self._pictures))

    async def _caption_one(self, picture: Image.Image) -> tuple[float, int, int]:
        """Caption a picture; return the end time and the tokens of its prompt and its caption."""
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt: Any = {"prompt": self._prompt, "multi_modal_data": {"image": picture}}
        sampling = SamplingParams(
            max_tokens=TOKENS, temperature=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        stream = self._engine.generate(prompt, sampling, f"{next(self._numbers)}")
        *_, last = [output async for output in stream]
        return time.time(), len(last.prompt_token_ids or ()), len(last.outputs[0].token_ids)


def _decode_and_frame(image: bytes, framing: Any) -> Image.Image:
    found = decode_image(image, DecodeConfig(), framing)
    assert isinstance(found, Decoded)
    return Image.frombytes("RGB", (found.pixel_width, found.pixel_height), found.pixels)
