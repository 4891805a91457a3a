"""Hugging Face transformers: static batches, for machines and models that vLLM does not serve.

Also the way most people caption today, and so the baseline.
"""

import asyncio
from collections.abc import Sequence
from typing import Any

import torch
import transformers
from PIL import Image

from s4v_core.generation.engines.prompting import PromptRenderer
from s4v_core.generation.requests import (
    EngineSpec,
    Generation,
    Request,
    SamplingConfig,
    refused,
)


class TransformersEngine:
    """One batch after the other, in a thread. Draws, where there are any, depend on the batch."""

    def __init__(self, spec: EngineSpec) -> None:
        self.version = f"transformers {transformers.__version__}"
        self._prompts = PromptRenderer(spec.model, spec.template)
        self._batch_size = spec.settings.batch_size
        self._one_at_a_time = asyncio.Lock()
        dtype = spec.settings.dtype
        if dtype == "auto" and spec.device == "cpu":
            dtype = "float32"
        transformers.logging.disable_progress_bar()
        self._model = transformers.AutoModelForImageTextToText.from_pretrained(
            spec.model, dtype=dtype, trust_remote_code=False
        ).eval()
        self._model.to("cuda" if spec.device == "gpu" else "cpu")

    async def generate(
        self, requests: Sequence[Request], sampling: SamplingConfig
    ) -> list[Generation]:
        found: list[Generation] = []
        for first in range(0, len(requests), self._batch_size):
            batch = requests[first : first + self._batch_size]
            async with self._one_at_a_time:
                found += await asyncio.to_thread(self._generate, batch, sampling)
        return found

    def _generate(self, batch: Sequence[Request], sampling: SamplingConfig) -> list[Generation]:
        images = [Image.fromarray(request.pixels) for request in batch]
        try:
            inputs = self._prompts.batch([request.prompt for request in batch], images)
        except ValueError as error:  # the processor's word for what it cannot take
            return [refused(error)] * len(batch)
        inputs = inputs.to(self._model.device)
        torch.manual_seed(sampling.seed_of(batch[0].image_sha256) or 0)
        with torch.inference_mode():
            output = self._model.generate(**inputs, **_parameters(sampling))
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [self._answer(ids, n) for ids, n in zip(answers, prompt_tokens, strict=True)]

    def _answer(self, ids: list[int], prompt_tokens: int) -> Generation:
        ends = self._model.generation_config.eos_token_id
        ends = set(ends if isinstance(ends, list) else [ends])
        stop = next((at for at, token in enumerate(ids) if token in ends), None)
        kept = ids if stop is None else ids[: stop + 1]
        finish = "length" if stop is None else "stop"
        return Generation(self._prompts.text(kept), finish, prompt_tokens, len(kept))

    def close(self) -> None:
        del self._model


def _parameters(sampling: SamplingConfig) -> dict[str, Any]:
    drawn = sampling.temperature > 0
    return {
        "max_new_tokens": sampling.max_tokens,
        "do_sample": drawn,
        "temperature": sampling.temperature if drawn else None,
        "top_p": sampling.top_p if drawn else None,
        "repetition_penalty": sampling.repetition_penalty,
    }
