"""Turns the engines' results into bodies of answers: OpenAI's objects and events, and captions."""

import json
import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request as HttpRequest

from s4v_core.engines.ladder import Ending
from s4v_core.engines.requests import Generation, Request
from serve.api.bodies import ChatRequest, CompletionRequest
from serve.api.pictures import Picture
from serve.api.schemas import (
    AnswerMessage,
    CaptionAnswer,
    CaptionOptions,
    ChatAnswer,
    ChatChoice,
    CompletionAnswer,
    CompletionChoice,
    Timings,
    Tokens,
    Usage,
)
from serve.engines.models import Model
from serve.front.refusals import Refusal


def read_request_id(http: HttpRequest) -> str:
    """Read the id that the guard gave the request; log lines and answers carry it."""
    return str(http.scope["state"]["request_id"])


def build_caption_answer(
    request: Request,
    body: CaptionOptions,
    model: Model,
    picture: Picture,
    end: Ending,
    generate_ms: float,
) -> CaptionAnswer:
    """Build the answer for one image, with the values that a batch pass's row would have."""
    answer = end.answer
    return CaptionAnswer(
        id=f"caption-{request.key}",
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
        width=picture.decoded.width,
        height=picture.decoded.height,
        image_sha256=picture.sha256,
        image_format=picture.decoded.format,
        image_flags=picture.decoded.flags,
    )


def find_finish_reason(answer: Generation) -> Any:
    """Find OpenAI's finish reason, stop or length. An answer that was ended because it looped gets
    stop."""
    return "length" if answer.finish_reason == "length" else "stop"


def build_chat_answer(body: ChatRequest, http: HttpRequest, answer: Generation) -> ChatAnswer:
    """Build OpenAI's chat completion."""
    message = AnswerMessage(content=answer.text or "")
    return ChatAnswer(
        id=f"chatcmpl-{read_request_id(http)}",
        created=int(time.time()),
        model=body.model,
        choices=[ChatChoice(message=message, finish_reason=find_finish_reason(answer))],
        usage=build_usage(answer),
    )


def build_completion_answer(
    body: CompletionRequest, http: HttpRequest, answers: Sequence[Generation]
) -> CompletionAnswer:
    """Build OpenAI's text completion, with one choice per prompt."""
    choices = [
        CompletionChoice(
            index=index, text=answer.text or "", finish_reason=find_finish_reason(answer)
        )
        for index, answer in enumerate(answers)
    ]
    return CompletionAnswer(
        id=f"cmpl-{read_request_id(http)}",
        created=int(time.time()),
        model=body.model,
        choices=choices,
        usage=build_usage(*answers),
    )


def build_usage(*answers: Generation) -> Usage:
    """Build OpenAI's token counts of all answers to a request together."""
    prompt = sum(answer.prompt_tokens or 0 for answer in answers)
    output = sum(answer.output_tokens or 0 for answer in answers)
    return Usage(prompt_tokens=prompt, completion_tokens=output, total_tokens=prompt + output)


class ChatStream:
    """Writes the server-sent events of a chat completion."""

    kind, prefix = "chat.completion.chunk", "chatcmpl"

    def __init__(self, body: ChatRequest | CompletionRequest, http: HttpRequest) -> None:
        self._include_usage = bool(body.stream_options and body.stream_options.include_usage)
        self._head = {
            "id": f"{self.prefix}-{read_request_id(http)}",
            "object": self.kind,
            "created": int(time.time()),
            "model": body.model,
        }

    def write_opening(self) -> bytes:
        """Write the event before the first piece of text."""
        return self._write_event(self._build_choices({"role": "assistant", "content": ""}, None))

    def write_piece(self, piece: str | Generation) -> bytes:
        """Write the event of a piece of text, or the events that end the answer."""
        if isinstance(piece, str):
            return self._write_event(self._build_choices({"content": piece}, None))
        end = self._write_event(self._build_choices({}, find_finish_reason(piece)))
        if self._include_usage:
            end += self._write_event([], usage=build_usage(piece).model_dump())
        return end

    def write_refusal(self, refusal: Refusal) -> bytes:
        """Write the event of an error in the middle of an answer."""
        return b"data: " + refusal.body() + b"\n\n"

    def write_end(self) -> bytes:
        """Write the last event."""
        return b"data: [DONE]\n\n"

    def _build_choices(self, delta: dict[str, str], finish: str | None) -> list[dict[str, Any]]:
        return [{"index": 0, "delta": delta, "finish_reason": finish, "logprobs": None}]

    def _write_event(self, choices: list[dict[str, Any]], **more: Any) -> bytes:
        event = self._head | {"choices": choices} | more
        return b"data: " + json.dumps(event, ensure_ascii=False).encode() + b"\n\n"


class TextStream(ChatStream):
    """Writes the server-sent events of a text completion."""

    kind, prefix = "text_completion", "cmpl"

    def write_opening(self) -> bytes:
        """Write nothing: a text completion has no opening event."""
        return b""

    def _build_choices(self, delta: dict[str, str], finish: str | None) -> list[dict[str, Any]]:
        text = delta.get("content", "")
        return [{"index": 0, "text": text, "finish_reason": finish, "logprobs": None}]
