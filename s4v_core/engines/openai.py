"""Any OpenAI-compatible endpoint: the GPT4-Vision teacher, a judge, or a captioner that is
served."""

import asyncio
import base64
import email.utils
import io
import json
import os
import re
import socket
import time
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC
from typing import Any, NamedTuple

import numpy as np
import openai
from PIL import Image

from s4v_core.engines.endpoint import WeatherError
from s4v_core.engines.endpoint_answers import CONTENT_FILTER, read_answer
from s4v_core.engines.endpoint_parameters import EndpointParameters
from s4v_core.engines.endpoint_problems import Problem, read_problem
from s4v_core.engines.requests import Generation, Picture, Request, fail, refuse
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.errors import EngineError

_WEATHER_CODES = frozenset([408, 409, 425, 429])
"""Answers, besides 5xx, after which the same request may succeed."""

_HOPELESS_CODES = frozenset([401, 402, 403, 404, 405])
"""Answers that every request would get: a wrong key, account, address or model."""

_REFUSAL_CODES = frozenset([400, 422])
"""Answers to a request whose parameters the endpoint does not take."""

_STATUS_NAMES = {400: "BadRequestError", 422: "UnprocessableEntityError"}

_OVERLOAD_CODES = frozenset([429, 503, 529])
"""Answers that ask for fewer requests."""

DEFAULT_KEY = "OPENAI_API_KEY"
"""Environment variable with the key of an endpoint for which no other one is named."""

_JPEG_QUALITY = 92
"""A photograph then takes a tenth of its PNG, and a reader sees no difference."""

_UNABLE = re.compile(r"not (?:be )?support|n't support|unsupported|missing data", re.IGNORECASE)
"""Words of a server that calls an error of its own what it will never do: a model without eyes."""

_NO_PREFILL = re.compile(
    r"continue_final_message|add_generation_prompt|prefill|last message|final message"
    r"|end with a user",
    re.IGNORECASE,
)
"""Words of a refusal that concerns the answer's beginning."""


class OpenAIClient:
    """Sends each picture inside the message: the endpoint has to fetch nothing.

    What the endpoint refuses of the parameters is renamed or left out from then on, and `version`
    says so.
    """

    def __init__(self, spec: EngineSpec, url: str, variable: str = DEFAULT_KEY) -> None:
        """Args:
        variable: Environment variable that holds the endpoint's key.
        """
        self.name = "openai"
        self.address = url if variable == DEFAULT_KEY else f"{url} ({variable})"
        self._model, self._settings = spec.model, spec.settings
        self._parameters = EndpointParameters()
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=os.environ.get(variable, "none"),
            max_retries=0,  # EndpointEngine repeats requests, with patience and deadlines
            timeout=spec.settings.request_timeout_s,
        )

    @property
    def version(self) -> str:
        """Name, version, and how the endpoint's parameters differ from the row's sampling."""
        adapted = self._parameters.description
        return f"openai {openai.__version__}" + (f" ({adapted})" if adapted else "")

    async def send(self, request: Request, sampling: SamplingConfig) -> Generation | None:
        """One request, sent once (`endpoint.Client`); None if the endpoint refused a parameter that
        it can do without."""
        if request.is_raw:
            return refuse("raw_prompt")
        body = await asyncio.to_thread(_build_body, self._model, request, self._settings)
        parameters = self._parameters.build(sampling, request.content)
        found = await self._post(body | parameters)
        if isinstance(found, Generation):
            self._parameters.note_accepted(parameters)
            return _put_in_front(request.prefill, found)
        is_refusal = found.status in _REFUSAL_CODES
        if is_refusal and self._parameters.adapt(parameters, found.problem):
            return None
        return self._judge(request.prefill, found)

    def build_body(self, request: Request, sampling: SamplingConfig) -> dict[str, Any]:
        """The whole body of a request that is sent by other means."""
        body = _build_body(self._model, request, self._settings)
        return body | self._parameters.build(sampling, request.content)

    def read_response(self, status: int, text: str) -> Generation:
        """The answer in the response to a request that was sent by other means.

        Raises:
            WeatherError: It holds none, and may do so another time.
            EngineError: No request would get one.
        """
        found = read_answer(text) if status < 300 else read_problem(text)
        if isinstance(found, Generation):
            return replace(found, endpoint=self.address)
        return self._judge("", _Failed(found, found.status if status < 300 else status, None))

    def open_blocking(self, retries: int) -> openai.OpenAI:
        """A client of the same endpoint for other uses than single requests."""
        return openai.OpenAI(
            base_url=str(self._client.base_url),
            api_key=self._client.api_key,
            max_retries=retries,
            timeout=self._settings.request_timeout_s,
        )

    async def _post(self, body: dict[str, Any]) -> "Generation | _Failed":
        """The endpoint's answer to the body of a request."""
        try:
            answer = await self._client.chat.completions.with_raw_response.create(
                model=body["model"], messages=body["messages"], extra_body=body
            )
        except openai.APIStatusError as error:
            problem = read_problem(error.body or error.response.text)
            wait_s = read_retry_after(error.response.headers)
            return _Failed(problem, error.status_code, wait_s)
        except openai.APIConnectionError as error:
            # A reset or a cut body comes from something that listens; a refused connection does
            # not.
            is_reached = not _has_cause(error, (ConnectionRefusedError, socket.gaierror))
            text = f"{type(error).__name__}: {error}"
            raise WeatherError(
                self.name, text, is_reached=is_reached, is_unheard=is_reached
            ) from error
        except openai.OpenAIError as error:
            raise EngineError(self.name, f"{type(error).__name__}: {error}") from error
        found = read_answer(answer.http_response.text)
        if isinstance(found, Generation):
            return found
        return _Failed(found, found.status, None, "an error in an answer")

    def _judge(self, prefill: str, failed: "_Failed") -> Generation:
        """Refuse the request, or raise what the problem says about the endpoint."""
        problem, status, wait_s, place = failed
        words = problem.sentence if status is None else f"{place} {status}: {problem.sentence}"
        if problem.is_filtered:
            return fail(CONTENT_FILTER, words)
        if status is None:
            code = next(iter(problem.codes), "no_answer")
            raise WeatherError(self.name, words, wait_s, refusal=code, is_unheard=True)
        if status in (500, 501) and _UNABLE.search(problem.sentence):
            raise WeatherError(self.name, words, wait_s, refusal=f"HTTP{status}")
        if status in _WEATHER_CODES or status >= 500:
            raise WeatherError(self.name, words, wait_s, is_overload=status in _OVERLOAD_CODES)
        if status in _HOPELESS_CODES:
            raise EngineError(self.name, words)
        if prefill and _NO_PREFILL.search(problem.sentence):
            text = "the endpoint does not continue an answer that was begun for it (prefill)"
            return fail("engine_refused:prefill", f"{text}: {words}")
        return fail(f"engine_refused:{_STATUS_NAMES.get(status, f'HTTP{status}')}", words)


class _Failed(NamedTuple):
    """A request without an answer.

    Attributes:
        status: HTTP status, or the one that an error inside an answer names; None if it names none.
        wait_s: Seconds that the endpoint asks to wait.
        place: Where the status stands.
    """

    problem: Problem
    status: int | None
    wait_s: float | None
    place: str = "HTTP"


def _build_body(model: str, request: Request, settings: EngineSettings) -> dict[str, Any]:
    """The body of a request, but for the parameters that an endpoint may refuse."""
    messages = build_messages(request, settings.upload, settings.picture_detail)
    return {"model": model, "messages": messages} | _build_extras(request)


def _build_extras(request: Request) -> dict[str, Any]:
    """The parts of a request's body that say how the answer begins, and which form it has."""
    extras: dict[str, Any] = {}
    if request.prefill:  # as vLLM names it
        extras |= {"continue_final_message": True, "add_generation_prompt": False}
    if request.answer_schema:
        schema = {"name": "answer", "schema": json.loads(request.answer_schema), "strict": True}
        extras["response_format"] = {"type": "json_schema", "json_schema": schema}
    return extras


def _put_in_front(prefill: str, answer: Generation) -> Generation:
    """An answer that begins with its prefill; some endpoints repeat it, and some do not."""
    if answer.text is None:
        return answer
    is_repeated = answer.text.lstrip().startswith(prefill.strip())
    text = answer.text if is_repeated else prefill + answer.text
    return replace(answer, text=text.strip())


def build_messages(request: Request, upload: str = "png", detail: str | None = None) -> Any:
    """The chat messages of a request: system text, earlier turns, images in front of their
    turn, and the answer as far as it is begun.

    Args:
        upload: Format of the pictures: png or jpeg.
        detail: How closely the model is asked to look at them.
    """
    extra = {"detail": detail} if detail else {}
    messages: list[dict[str, Any]] = []
    if request.system:
        messages.append({"role": "system", "content": request.system})
    turns = [*request.earlier, (request.prompt, None)]
    for number, (question, answer) in enumerate(turns):
        pictures = [
            {"type": "image_url", "image_url": {"url": _encode_picture(image, upload)} | extra}
            for image, turn in zip(request.images, request.turns_of_images, strict=True)
            if turn == number
        ]
        text = {"type": "text", "text": question}
        messages.append({"role": "user", "content": [*pictures, text] if pictures else question})
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
    if request.prefill:
        messages.append({"role": "assistant", "content": request.prefill})
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


def _encode_picture(picture: Picture, upload: str) -> str:
    sink = io.BytesIO()
    image = Image.fromarray(np.asarray(picture))
    if upload == "jpeg":
        image.save(sink, "JPEG", quality=_JPEG_QUALITY)
    else:
        image.save(sink, "PNG", compress_level=1)
    return f"data:image/{upload};base64," + base64.b64encode(sink.getvalue()).decode()
