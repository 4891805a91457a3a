"""Any OpenAI-compatible endpoint: the GPT4-Vision teacher, or a captioner that is served."""

import asyncio
import base64
import io
import os
import time

import openai

from s4v_core.engines.requests import (
    EngineSpec,
    Generation,
    Request,
    SamplingConfig,
    Tell,
    refused,
)
from s4v_core.errors import EngineError

MAX_RETRIES = 6
"""Of the client: on connection loss, 408, 409, 429 and 5xx, with exponential waits."""


class OpenAIEngine:
    """Sends each picture as a PNG inside the message: the endpoint fetches nothing."""

    def __init__(self, spec: EngineSpec) -> None:
        self.version = f"openai {openai.__version__}"
        self.last_sign = time.monotonic()
        self._model = spec.model
        self.slots = spec.settings.max_concurrent_requests
        self._client = openai.AsyncOpenAI(
            base_url=spec.settings.url,
            api_key=os.environ.get("OPENAI_API_KEY", "none"),
            max_retries=MAX_RETRIES,
        )

    async def generate(
        self, request: Request, sampling: SamplingConfig, tell: Tell | None = None
    ) -> Generation:
        if not request.is_caption:
            return refused("conversation")
        picture = await asyncio.to_thread(_data_uri, request)
        content = [
            {"type": "image_url", "image_url": {"url": picture}},
            {"type": "text", "text": request.prompt},
        ]
        try:
            answer = await self._client.chat.completions.create(
                model=self._model,
                messages=[{"role": "user", "content": content}],  # type: ignore[list-item, misc]
                max_tokens=sampling.max_tokens,
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                seed=sampling.seed_of(request.image_sha256),
            )
        except (openai.BadRequestError, openai.UnprocessableEntityError) as error:
            return refused(error)
        except openai.OpenAIError as error:
            # Keys, quota, outage: weather, no fact about the image. The unit stays undone.
            raise EngineError("openai", f"{type(error).__name__}: {error}") from error
        self.last_sign = time.monotonic()
        choice = answer.choices[0]
        used = answer.usage
        return Generation(
            (choice.message.content or "").strip(),
            choice.finish_reason,
            used.prompt_tokens if used else None,
            used.completion_tokens if used else None,
        )

    def kill(self) -> None:
        pass  # its clients have deadlines of their own

    def close(self) -> None:
        pass


def _data_uri(request: Request) -> str:
    sink = io.BytesIO()
    request.picture.save(sink, "PNG", compress_level=1)
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()
