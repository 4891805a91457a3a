"""Answers of /v1/responses: OpenAI's object, and the events of a streamed one."""

import json
import time
from collections.abc import Sequence
from typing import Any

from fastapi import Request as HttpRequest

from s4v_core.engines.requests import Generation
from s4v_core.engines.sampling import SamplingConfig
from serve.api.answer_forms import ANY_OBJECT, write_schema
from serve.api.answers import build_usage, read_request_id
from serve.api.bodies import ObjectForm, RefusalPart, TextForm
from serve.api.conversations import Conversation, ImagePlace, Turn, build_conversation
from serve.api.fields import refuse_unsupported
from serve.api.response_bodies import (
    FlatSchemaForm,
    InputImage,
    InputMessage,
    InputPart,
    ResponsesRequest,
)
from serve.front.refusals import Refusal
from serve.settings import Limits


def read_input(body: ResponsesRequest, limits: Limits) -> Conversation:
    """Read the conversation of a request.

    Raises:
        Refusal: 400; the number of messages, the place of an image or the length is not allowed.
    """
    turns = [Turn("system", (body.instructions,))] if body.instructions else []
    if isinstance(body.input, str):
        turns.append(Turn("user", (body.input,)))
    else:
        for number, item in enumerate(body.input):
            if isinstance(item, InputMessage):
                refuse_unsupported(item.model_extra, "input", number)
                turns.append(_read_item(item, f"input[{number}].content"))
    return build_conversation(turns, limits, "input")


def read_output_schema(body: ResponsesRequest, engine: str) -> str | None:
    """Read the JSON schema that the answer has to follow; None if any text will do.

    Raises:
        Refusal: 400, the engine cannot bind an answer to this schema.
    """
    form = body.text.format if body.text else None
    if isinstance(form, FlatSchemaForm):
        return write_schema(form.schema_, engine, "text.format.schema")
    return ANY_OBJECT if isinstance(form, ObjectForm) else None


def _read_item(item: InputMessage, place: str) -> Turn:
    if isinstance(item.content, str):
        return Turn(item.role, (item.content,))
    return _read_parts(item.role, item.content, place)


def _read_parts(role: str, parts: Sequence[InputPart], place: str) -> Turn:
    texts: list[str] = []
    images: list[ImagePlace] = []
    for number, part in enumerate(parts):
        if isinstance(part, InputImage):
            images.append(ImagePlace(part.image_url, f"{place}[{number}].image_url"))
        else:
            texts.append(part.refusal if isinstance(part, RefusalPart) else part.text)
    return Turn(role, tuple(texts), tuple(images))


class ResponseWriter:
    """Writes one response, whole or as server-sent events."""

    def __init__(self, body: ResponsesRequest, http: HttpRequest, sampling: SamplingConfig) -> None:
        name = read_request_id(http)
        self._item_id, self._count = f"msg_{name}", 0
        self._head: dict[str, Any] = {
            "id": f"resp_{name}",
            "object": "response",
            "created_at": int(time.time()),
            "model": body.model,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "text": {"format": _repeat_form(body)},
            "metadata": body.metadata or {},
            "error": None,
            "previous_response_id": None,
            "parallel_tool_calls": False,
            "tool_choice": "none",
            "tools": [],
            "truncation": "disabled",
            "store": False,
        }

    def build_whole(self, answer: Generation) -> dict[str, Any]:
        """Build the object of a finished response."""
        is_cut = answer.finish_reason == "length"
        status = "incomplete" if is_cut else "completed"
        details = {"reason": "max_output_tokens"} if is_cut else None
        usage = build_usage(answer)
        return self._build(status, [self._build_item(status, answer.text or "")]) | {
            "incomplete_details": details,
            "usage": {
                "input_tokens": usage.prompt_tokens,
                "input_tokens_details": {"cached_tokens": 0, "cache_write_tokens": 0},
                "output_tokens": usage.completion_tokens,
                "output_tokens_details": {"reasoning_tokens": answer.thinking_tokens or 0},
                "total_tokens": usage.total_tokens,
            },
        }

    def write_opening(self) -> bytes:
        """Write the events before the first piece of text."""
        begun = {"response": self._build("in_progress", [])}
        item = self._build_item("in_progress", None)
        return b"".join(
            (
                self._write_event("response.created", begun),
                self._write_event("response.in_progress", begun),
                self._write_event("response.output_item.added", {"output_index": 0, "item": item}),
                self._write_part_event("response.content_part.added", part=_build_part("")),
            )
        )

    def write_piece(self, piece: str | Generation) -> bytes:
        """Write the event of a piece of text, or the events that end the answer."""
        if isinstance(piece, str):
            return self._write_part_event("response.output_text.delta", delta=piece, logprobs=[])
        whole = self.build_whole(piece)
        text = piece.text or ""
        item = {"output_index": 0, "item": whole["output"][0]}
        return b"".join(
            (
                self._write_part_event("response.output_text.done", text=text, logprobs=[]),
                self._write_part_event("response.content_part.done", part=_build_part(text)),
                self._write_event("response.output_item.done", item),
                self._write_event(f"response.{whole['status']}", {"response": whole}),
            )
        )

    def write_refusal(self, refusal: Refusal) -> bytes:
        """Write the event of an error in the middle of an answer."""
        error = {"code": refusal.code, "message": refusal.message, "param": refusal.param}
        return self._write_event("error", error)

    def write_end(self) -> bytes:
        """Write nothing: the last event says that it is the last."""
        return b""

    def _build(self, status: str, output: list[dict[str, Any]]) -> dict[str, Any]:
        more = {"status": status, "output": output, "incomplete_details": None, "usage": None}
        return self._head | more

    def _build_item(self, status: str, text: str | None) -> dict[str, Any]:
        content = [] if text is None else [_build_part(text)]
        kind = {"id": self._item_id, "type": "message", "role": "assistant"}
        return kind | {"status": status, "content": content}

    def _write_part_event(self, kind: str, **more: Any) -> bytes:
        place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        return self._write_event(kind, place | more)

    def _write_event(self, kind: str, more: dict[str, Any]) -> bytes:
        event = {"type": kind, "sequence_number": self._count} | more
        self._count += 1
        data = json.dumps(event, ensure_ascii=False).encode()
        return b"event: " + kind.encode() + b"\ndata: " + data + b"\n\n"


def _repeat_form(body: ResponsesRequest) -> dict[str, Any]:
    form = body.text.format if body.text and body.text.format else TextForm(type="text")
    if isinstance(form, FlatSchemaForm):
        known = {"name": form.name, "strict": form.strict, "schema": form.schema_}
        return {"type": form.type, **known}
    return {"type": form.type}


def _build_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
