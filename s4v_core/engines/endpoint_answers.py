"""An endpoint's answer as a generation: its text without the thinking, or the reason for none.

Reads what OpenAI's own models, reasoning models, their proxies and other makers' layers send: text
or lists of parts, reasoning beside or inside the text, refusals, filters, errors in an answer that
has status 200.
"""

import json
from dataclasses import replace
from typing import Any

from s4v_core.engines.endpoint_problems import Problem, is_filter_word, read_problem, shorten
from s4v_core.engines.requests import Generation
from s4v_core.engines.thinking import UNFINISHED, UNFINISHED_WORDS, split_thinking

CONTENT_FILTER, MODEL_REFUSAL = "engine_refused:content_filter", "engine_refused:model_refusal"
"""Reasons that concern the content of one request: the endpoint itself works."""

_THINKING_FIELDS = ("reasoning_content", "reasoning", "thinking", "reasoning_details")
_THINKING_PARTS = ("thinking", "redacted_thinking", "reasoning", "reasoning_text", "thought")
_FEEDBACK_FIELDS = ("prompt_feedback", "promptFeedback")


def read_answer(answer: str) -> Generation | Problem:
    """The generation in the body of an answer that has status 200; a problem if it holds none.

    White space around the text is kept: the text may continue another one.
    """
    try:
        body = json.loads(answer)
    except ValueError:
        words = read_problem(answer).sentence or "nothing"
        return Problem(f"the answer is no JSON but: {words}", codes=("no_json",))
    if isinstance(body, list) and body:
        body = body[0]
    if not isinstance(body, dict):
        return Problem(f"the answer is no object but: {shorten(answer)}", codes=("no_json",))
    choice = next(iter(body.get("choices") or ()), None)
    if not isinstance(choice, dict):
        return _explain_no_choice(body)
    if choice.get("error") and not _is_answered(choice):
        return read_problem(choice["error"])
    found = _read_choice(choice, body.get("usage") or {})
    model = body.get("model")
    if isinstance(found, Generation) and isinstance(model, str):
        return replace(found, model=model)
    return found


def _is_answered(choice: dict[str, Any]) -> bool:
    return choice.get("finish_reason") in ("stop", "length")


def _explain_no_choice(body: dict[str, Any]) -> Generation | Problem:
    feedback = next((body[name] for name in _FEEDBACK_FIELDS if body.get(name)), None)
    if feedback:
        return _refuse(CONTENT_FILTER, f"the prompt was blocked: {json.dumps(feedback)}", None, {})
    if filtered := _list_filters(body.get("prompt_filter_results")):
        return _refuse(CONTENT_FILTER, f"the prompt was blocked: {filtered}", None, {})
    if body.get("error"):
        return read_problem(body)
    if "message" in body or "detail" in body:
        return read_problem(body)
    return Problem(
        f"the answer holds no choices, but {shorten(json.dumps(body))}", codes=("no_choices",)
    )


def _read_choice(choice: dict[str, Any], usage: dict[str, Any]) -> Generation | Problem:
    message, finish = choice.get("message"), choice.get("finish_reason")
    finish = str(finish) if finish is not None else None
    if not isinstance(message, dict):
        words = shorten(json.dumps(choice))
        return Problem(f"the answer holds no message, but {words}", codes=("no_message",))
    text, refusal, has_parts = _read_content(message.get("content"))
    refusal = refusal or str(message.get("refusal") or "")
    if finish and is_filter_word(finish):
        filtered = _list_filters(choice) or refusal or finish
        return _refuse(CONTENT_FILTER, f"the answer was stopped: {filtered}", finish, usage)
    if (refusal and not text) or finish == "refusal":
        return _refuse(MODEL_REFUSAL, refusal or text or "refusal", finish, usage)
    thought = _count_thinking(usage)
    has_thought = has_parts or bool(thought) or any(map(message.get, _THINKING_FIELDS))
    kept, thoughts = split_thinking(text)
    is_cut = thoughts is not None or (has_thought and finish == "length")
    if is_cut and not kept.strip():
        return _refuse(UNFINISHED, UNFINISHED_WORDS, finish, usage)
    return Generation(
        kept,
        finish,
        _read_count(usage, "prompt_tokens"),
        _read_count(usage, "completion_tokens"),
        thinking_tokens=thought,
    )


def _read_content(content: object) -> tuple[str, str, bool]:
    """The text of a message, its refusal, and whether it has parts with thinking."""
    if not isinstance(content, list):
        return (content if isinstance(content, str) else ""), "", False
    texts, refusals, has_thinking = list[str](), list[str](), False
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif isinstance(part, dict) and part.get("type") in _THINKING_PARTS:
            has_thinking = True
        elif isinstance(part, dict):
            texts.append(str(part.get("text") or ""))
            refusals.append(str(part.get("refusal") or ""))
    return "".join(texts), "".join(refusals), has_thinking


def _refuse(reason: str, words: str, finish: str | None, usage: dict[str, Any]) -> Generation:
    tokens = _read_count(usage, "prompt_tokens"), _read_count(usage, "completion_tokens")
    return Generation(None, finish, *tokens, reason, shorten(words), _count_thinking(usage))


def _count_thinking(usage: dict[str, Any]) -> int | None:
    """Tokens of thinking, as far as the endpoint counts them."""
    details = usage.get("completion_tokens_details") or usage.get("output_tokens_details")
    source = details if isinstance(details, dict) else usage
    return _read_count(source, "reasoning_tokens") or None


def _read_count(usage: dict[str, Any], name: str) -> int | None:
    value = usage.get(name)
    return value if isinstance(value, int) else None


def _list_filters(found: object) -> str:
    """The categories for which Azure's filter stopped a prompt or an answer; empty if for none."""
    if isinstance(found, list):
        return ", ".join(filter(None, map(_list_filters, found)))
    if not isinstance(found, dict):
        return ""
    inner = found.get("content_filter_results") or found.get("content_filter_result")
    categories = inner if isinstance(inner, dict) else found
    names = (
        f"{name} {about.get('severity', '')}".strip()
        for name, about in categories.items()
        if isinstance(about, dict) and about.get("filtered")
    )
    return ", ".join(names)
