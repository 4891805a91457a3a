"""Hugging Face transformers: static batches, for machines and models that vLLM does not serve.

Also the way most people caption today, and so the baseline.
"""

import asyncio
import os
import time
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
import transformers

from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.load_meter import LoadMeter
from s4v_core.engines.model_shape import read_model_shape
from s4v_core.engines.rendering import OWN_TEMPLATE, load_renderer
from s4v_core.engines.requests import Generation, OnPiece, Request, refuse
from s4v_core.engines.sampling import SamplingConfig, cut_at_stop, list_client_changes
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import ConfigError, EngineError


class TransformersEngine:
    """Runs one batch after the other, in a thread. Random draws depend on the batch."""

    def __init__(self, spec: EngineSpec) -> None:
        self.version = f"transformers {transformers.__version__}"
        self._prompts, self._processor = load_renderer(spec.model, spec.template)
        self._adds_bos = spec.template != OWN_TEMPLATE
        self._longest = spec.settings.max_model_len or read_model_shape(spec.model).longest
        tokenizer = self._prompts.tokenizer
        # Base models have no token to fill up with. What it is does not matter: it is masked.
        tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
        self._batch_size = spec.settings.batch_size
        self.slots = 2 * self._batch_size  # one batch computes while the next one waits
        self._waiting: deque[_Waiting] = deque()
        self._batches: asyncio.Task[None] | None = None
        self._load = LoadMeter(self._batch_size)
        self.last_sign = time.monotonic()
        dtype = spec.settings.dtype
        if dtype == "auto" and spec.device == "cpu":
            dtype = "float32"
        transformers.logging.disable_progress_bar()
        self._model = _load_model(spec.model, dtype)
        if spec.settings.adapter:
            self._model.load_adapter(spec.settings.adapter)  # through peft
        self._model.to("cuda" if spec.device == "gpu" else "cpu")
        self._ends = self._list_ends()

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        if lacking := sorted(list_client_changes(sampling).keys() - _TAKEN):
            return refuse(f"no_{lacking[0]}")
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, sampling, answer))
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._run_batches())
        found: Generation = await answer
        return replace(found, text=found.text and cut_at_stop(sampling, found.text))

    async def _run_batches(self) -> None:
        await asyncio.sleep(0)  # let requests made in the same tick share a batch
        while self._waiting:
            sampling = self._waiting[0].sampling
            batch: list[_Waiting] = []
            while (
                self._waiting
                and len(batch) < self._batch_size
                and self._waiting[0].sampling == sampling
            ):
                batch.append(self._waiting.popleft())
            try:
                requests = [waiting.request for waiting in batch]
                found = await asyncio.to_thread(self._generate, requests, sampling)
            # Border to foreign code: whatever it is, the callers must hear of it.
            except Exception as error:  # noqa: BLE001
                failure = EngineError("transformers", f"{type(error).__name__}: {error}")
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(failure)
                continue
            self.last_sign = time.monotonic()
            self._load.add_step(len(batch), len(self._waiting), finished=len(batch))
            for waiting, answer in zip(batch, found, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    def _generate(self, batch: Sequence[Request], sampling: SamplingConfig) -> list[Generation]:
        try:
            inputs = self._make_batch(batch)
        except (ConfigError, ValueError) as error:  # what template or processor cannot take
            if len(batch) == 1:
                return [refuse(error)]
            # One of them is to blame; alone, each gets its own answer.
            return [self._generate([request], sampling)[0] for request in batch]
        # Some processors give pixels in a type of their own (Llama 4: bfloat16); ids keep theirs.
        has_pixels = any(request.images for request in batch)
        inputs = inputs.to(
            self._model.device, **({"dtype": self._model.dtype} if has_pixels else {})
        )
        torch.manual_seed(sampling.seed_of(batch[0].content) or 0)
        with torch.inference_mode():
            output = self._model.generate(
                **inputs,
                **_parameters(sampling),
                eos_token_id=self._ends or None,
                pad_token_id=self._prompts.tokenizer.pad_token_id,
                tokenizer=self._prompts.tokenizer,  # stop texts are looked for in its words
            )
        prompt_tokens = inputs["attention_mask"].sum(dim=1).tolist()
        stops = list_client_changes(sampling).get("stop", ())
        answers = output[:, inputs["input_ids"].shape[1] :].tolist()
        return [
            self._read_answer(request, ids, count, stops)
            for request, ids, count in zip(batch, answers, prompt_tokens, strict=True)
        ]

    def _make_batch(self, requests: Sequence[Request]) -> Any:
        """Tensors for the model: ids of shape (requests, tokens), padded on the left.

        Raises:
            ConfigError, ValueError: The template or the processor cannot take one of the requests,
                or its prompt leaves the model no position for an answer.
        """
        texts = [self._prompts.render(request) for request in requests]
        images = [request.pictures for request in requests]
        bos = self._prompts.tokenizer.bos_token
        has_bos = bool(bos) and texts[0].startswith(bos)
        is_raw = requests[0].is_raw
        inputs = self._processor(
            text=texts,
            **({"images": images} if any(images) else {}),
            return_tensors="pt",
            padding=True,
            padding_side="left",
            # A checkpoint's own template writes its BOS itself, or wants none.
            add_special_tokens=(self._adds_bos or is_raw) and not has_bos,
        )
        tokens = int(inputs["attention_mask"].sum(dim=1).max())
        # transformers would go on beyond the positions that the model has learnt.
        if tokens >= self._longest:
            raise ValueError(f"the prompt has {tokens} tokens, the model takes {self._longest}")
        return inputs

    def _list_ends(self) -> list[int]:
        """Tokens that end an answer: the checkpoint's, and the one that its template ends turns
        with."""
        ends = self._model.generation_config.eos_token_id
        found = [] if ends is None else list(ends) if isinstance(ends, list) else [ends]
        turn_end = self._prompts.find_turn_end()
        return found if turn_end is None else [*found, turn_end]

    def _read_answer(
        self, request: Request, ids: list[int], prompt_tokens: int, stops: Sequence[str]
    ) -> Generation:
        ends = [at for at, token in enumerate(ids) if token in self._ends][:1]
        ends += self._find_stop(ids, stops)
        # Behind its end, an answer is filled up to the longest one of its batch.
        kept = ids[: min(ends) + 1] if ends else ids
        finish = "stop" if ends else "length"
        return self._prompts.read_answer(request, kept, finish, prompt_tokens)

    def _find_stop(self, ids: list[int], stops: Sequence[str]) -> list[int]:
        """The place of the token that completes a stop text; empty if none does."""

        def has_stop(count: int) -> bool:
            text = self._prompts.tokenizer.decode(ids[:count])
            return any(stop in text for stop in stops)

        if not stops or not has_stop(len(ids)):
            return []
        return [bisect_left(range(len(ids) + 1), True, key=has_stop) - 1]

    def take_load(self) -> EngineLoad:
        """The load since the last call (`MeasuredEngine`)."""
        return self._load.take()

    def kill(self) -> None:
        os._exit(1)  # it computes in this very process; Ray starts another

    def close(self) -> None:
        del self._model
        self._prompts.close()


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    sampling: SamplingConfig
    answer: "asyncio.Future[Generation]"


_TAKEN = frozenset(["stop", "top_k", "min_p", "min_tokens"])
"""Parts of a client's sampling that `generate` of transformers can do; it goes on to the end of the
token that completes a stop text, which is then cut off."""


def _load_model(model: str, dtype: str) -> Any:
    """A model that sees images, or else one that only writes."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    config = transformers.AutoConfig.from_pretrained(model, trust_remote_code=False)
    sees = type(config) in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING
    kind = transformers.AutoModelForImageTextToText if sees else transformers.AutoModelForCausalLM
    return kind.from_pretrained(model, dtype=dtype, trust_remote_code=False).eval()


def _parameters(sampling: SamplingConfig) -> dict[str, Any]:
    drawn = sampling.temperature > 0
    changes = list_client_changes(sampling)
    more: dict[str, Any] = {
        name: changes[name] for name in ("top_k", "min_p") if drawn and name in changes
    }
    if "min_tokens" in changes:
        more["min_new_tokens"] = changes["min_tokens"]
    if "stop" in changes:
        more["stop_strings"] = list(changes["stop"])
    return {
        "max_new_tokens": sampling.max_tokens,
        "do_sample": drawn,
        "temperature": sampling.temperature if drawn else None,
        "top_p": sampling.top_p if drawn else None,
        "repetition_penalty": sampling.repetition_penalty,
        **more,
    }
