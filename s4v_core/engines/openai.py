"""Any OpenAI-compatible endpoint: the GPT4-Vision teacher, a judge, or a captioner that is
served."""

import asyncio
import base64
import email.utils
import io
import os
import socket
import time
from collections.abc import Mapping
from datetime import UTC
from typing import Any

import numpy as np
import openai
from PIL import Image

from s4v_core.engines.endpoint import WeatherError
from s4v_core.engines.requests import Generation, Picture, Request, refuse
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import EngineError

_WEATHER_CODES = frozenset([408, 409, 425, 429])
"""Answers, besides 5xx, after which the same request may succeed."""

_HOPELESS_CODES = frozenset([401, 402, 403, 404, 405])
"""Answers that every request would get: a wrong key, account, address or model."""


class OpenAIClient:
    """Sends each picture as a PNG inside the message: the endpoint has to fetch nothing."""

    def __init__(self, spec: EngineSpec) -> None:
        self.name, self.version = "openai", f"openai {openai.__version__}"
        self._model = spec.model
        self._client = openai.AsyncOpenAI(
            base_url=spec.settings.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=0,  # EndpointEngine repeats requests, with patience and deadlines
            timeout=spec.settings.request_timeout_s,
        )

    async def send(self, request: Request, sampling: SamplingConfig) -> Generation:
        """One request, sent once (`endpoint.Client`)."""
        if request.is_raw:
            return refuse("raw_prompt")
        messages = await asyncio.to_thread(build_messages, request)
        try:
            answer = await self._client.chat.completions.create(
                model=self._model,
                messages=messages,
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed_of(request.content),
            )
        except openai.APIStatusError as error:
            return self._judge_status(error)
        except (openai.APIConnectionError, openai.APIResponseValidationError) as error:
            # A reset or a cut body comes from something that listens; a refused connection does
            # not.
            is_reached = not _has_cause(error, (ConnectionRefusedError, socket.gaierror))
            problem = f"{type(error).__name__}: {error}"
            raise WeatherError(self.name, problem, is_reached=is_reached) from error
        except openai.OpenAIError as error:
            raise EngineError(self.name, f"{type(error).__name__}: {error}") from error
        if not getattr(answer, "choices", None):
            raise WeatherError(self.name, "an answer without choices")
        choice, used = answer.choices[0], answer.usage
        return Generation(
            (choice.message.content or "").strip(),
            choice.finish_reason,
            used.prompt_tokens if used else None,
            used.completion_tokens if used else None,
        )

    def _judge_status(self, error: openai.APIStatusError) -> Generation:
        """Refuse the request, or raise what the status says about the endpoint."""
        problem = f"HTTP {error.status_code}: {error.message}"
        if error.status_code in _WEATHER_CODES or error.status_code >= 500:
            wait_s = read_retry_after(error.response.headers)
            raise WeatherError(self.name, problem, wait_s) from error
        if error.status_code in _HOPELESS_CODES:
            raise EngineError(self.name, problem) from error
        return refuse(error)


def build_messages(request: Request) -> Any:
    """The chat messages of a request: system text, earlier turns, images in front of their turn."""
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    turns = [*request.earlier, (request.prompt, None)]
    for number, (question, answer) in enumerate(turns):
        pictures = [
            {"type": "image_url", "image_url": {"url": _encode_picture(image)}}
            for image, turn in zip(request.images, request.turns_of_images, strict=True)
            if turn == number
        ]
        text = {"type": "text", "text": question}
        messages.append({"role": "user", "content": [*pictures, text] if pictures else question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    return messages


def read_retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds that an answer asks to wait, from `retry-after-ms` or `retry-after` (seconds, or an
    HTTP date: RFC 9110, section 10.2.3); None if it does not say."""
    for name, unit_s in (("retry-after-ms", 0.001), ("retry-after", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            return max(float(value) * unit_s, 0.0)
        except ValueError:
            pass
        try:
            date = email.utils.parsedate_to_datetime(value)
        except ValueError:
            continue
        return max(date.replace(tzinfo=date.tzinfo or UTC).timestamp() - time.time(), 0.0)
    return None


def _has_cause(error: BaseException | None, kinds: tuple[type[BaseException], ...]) -> bool:
    """Whether an error, or one that it was raised for, is of one of these kinds."""
    while error is not None:
        if isinstance(error, kinds):
            return True
        error = error.__cause__ or error.__context__
    return False


def _encode_picture(picture: Picture) -> str:
    sink = io.BytesIO()
    Image.fromarray(np.asarray(picture)).save(sink, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
