"""What engines give -> bodies of answers: OpenAI's objects and events, and captions."""

import json
import time
from typing import Any

from fastapi import Request as HttpRequest

from s4v_core.captioning.ladder import Ending
from s4v_core.engines.requests import Generation, Request
from serve.api.pictures import Picture
from serve.api.schemas import (
    CaptionAnswer,
    CaptionOptions,
    ChatRequest,
    CompletionRequest,
    Timings,
    Tokens,
    Usage,
)
from serve.engines.models import Model


def request_id(http: HttpRequest) -> str:
    """The guard's, which every log line and answer carries."""
    return str(http.scope["state"]["request_id"])


def caption_answer(
    request: Request,
    body: CaptionOptions,
    model: Model,
    picture: Picture,
    end: Ending,
    generate_ms: float,
) -> CaptionAnswer:
    """How it ended with one image, as a batch pass's row says it."""
    answer = end.answer
    return CaptionAnswer(
        id=f"caption-{request.image_id}",
        model=model.config.id,
        status=end.status,
        reason=end.reason,
        caption=answer.text if answer else None,
        source=body.source,
        prompt=request.prompt,
        attempts=end.attempts,
        finish_reason=answer.finish_reason if answer else None,
        tokens=Tokens(
            prompt=answer.prompt_tokens if answer else None,
            output=answer.output_tokens if answer else None,
        ),
        timings=Timings(decode_ms=round(picture.decode_ms, 1), generate_ms=round(generate_ms, 1)),
        width=picture.about.width,
        height=picture.about.height,
        image_sha256=picture.sha256,
        image_format=picture.about.format,
        image_flags=picture.about.flags,
    )


def finish_reason(answer: Generation) -> Any:
    """OpenAI knows two; an answer stopped at its loops is stopped."""
    return "length" if answer.finish_reason == "length" else "stop"


def usage_of(answer: Generation) -> Usage:
    """OpenAI's numbers of tokens."""
    prompt, output = answer.prompt_tokens or 0, answer.output_tokens or 0
    return Usage(prompt_tokens=prompt, completion_tokens=output, total_tokens=prompt + output)


class ChatStream:
    """Events of a chat completion."""

    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def __init__(self, body: ChatRequest | CompletionRequest, http: HttpRequest) -> None:
        self._usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {
            "id": f"{self.prefix}-{request_id(http)}",
            "object": self.kind,
            "created": int(time.time()),
            "model": body.model,
        }

    def opening(self) -> bytes:
        """Before the first piece."""
        return self._event(self._choice({"role": "assistant", "content": ""}, None))

    def event(self, piece: str | Generation) -> bytes:
        """A piece of text, or the end of the answer."""
        if isinstance(piece, str):
            return self._event(self._choice({"content": piece}, None))
        end = self._event(self._choice({}, finish_reason(piece)))
        if self._usage:
            end += self._event([], usage=usage_of(piece).model_dump())
        return end

    def _choice(self, delta: dict[str, str], finish: str | None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]

    def _event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        whole = self._head | {"choices": choices} | more
        return b"data: " + json.dumps(whole, ensure_ascii=False).encode() + b"\n\n"


class TextStream(ChatStream):
    """Events of a text completion."""

    kind, prefix = "text_completion", "cmpl"

    def opening(self) -> bytes:
        """Nothing: the text begins at once."""
        return b""

    def _choice(self, delta: dict[str, str], finish: str | None) -> list[dict[str, Any]]:
        text = delta.get("content", "")
        return [{"index": 0, "text": text, "finish_reason": finish, "logprobs": None}]
