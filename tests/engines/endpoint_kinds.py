"""Endpoints of today's kinds, as replies for `WeatherEndpoint`: what they refuse, and the forms of
their answers and errors, in their own wording."""

import json
from collections.abc import Callable
from typing import Any

from tests.engines.weather_endpoint import Reply, complete

Body = dict[str, Any]


def _refuse(message: str, param: str | None = None, code: str | None = None) -> tuple[int, object]:
    about = {"message": message, "type": "invalid_request_error", "param": param, "code": code}
    return 400, {"error": about}


def reply_like_gpt5(body: Body, _: str) -> tuple[int, object] | None:
    """OpenAI and Azure with a reasoning model."""
    if "max_tokens" in body:
        return _refuse(
            "Unsupported parameter: 'max_tokens' is not supported with this model. "
            "Use 'max_completion_tokens' instead.",
            "max_tokens",
            "unsupported_parameter",
        )
    if body.get("temperature", 1) != 1:
        return _refuse(
            f"Unsupported value: 'temperature' does not support {body['temperature']} with this "
            "model. Only the default (1) value is supported.",
            "temperature",
            "unsupported_value",
        )
    if "top_p" in body:
        return _refuse(
            "Unsupported parameter: 'top_p' is not supported with this model.",
            "top_p",
            "unsupported_parameter",
        )
    if "repetition_penalty" in body:
        return _refuse("Unrecognized request argument supplied: repetition_penalty")
    return None


def reply_like_mistral(body: Body, _: str) -> tuple[int, object] | None:
    """A server that validates with pydantic and forbids fields that it does not know."""
    extra = sorted({"seed", "repetition_penalty"} & body.keys())
    places = [
        {"type": "extra_forbidden", "loc": ["body", n], "msg": "Extra inputs are not permitted"}
        for n in extra
    ]
    message = {"detail": places}
    if not places:
        return None
    return 422, {"object": "error", "message": message, "type": "invalid_request_error"}


def reply_like_litellm(body: Body, _: str) -> tuple[int, object] | None:
    """A proxy that names the parameter in its sentence only."""
    if body.get("temperature", 1) == 1:
        return None
    message = (
        "litellm.UnsupportedParamsError: gpt-5 models don't support temperature="
        f"{body['temperature']}. Only temperature=1 is supported."
    )
    return 400, {"error": {"message": message, "type": "None", "param": None, "code": "400"}}


def reply_like_anthropic(body: Body, _: str) -> tuple[int, object] | None:
    """Anthropic's layer with a model that takes one of two parameters."""
    if not {"temperature", "top_p"} <= body.keys():
        return None
    return _refuse(
        "`temperature` and `top_p` cannot both be specified for this model. Please use only one."
    )


def reply_like_gemini(body: Body, text: str) -> tuple[int, object] | None:
    """Gemini's layer: a list around errors, no usage in answers."""
    if body.get("seed", 0) >= 1 << 31:
        message = f"Invalid value at 'generation_config.seed' (TYPE_INT32), {body['seed']}"
        return 400, [{"error": {"code": 400, "message": message, "status": "INVALID_ARGUMENT"}}]
    answer = complete(body, text)
    del answer["usage"]
    return 200, answer


def reply_like_openrouter(body: Body, _: str) -> tuple[int, object] | None:
    """A router that wraps the words of the model's own server."""
    if "top_p" not in body:
        return None
    raw = {"error": {"message": "Unsupported parameter: 'top_p'", "param": "top_p"}}
    metadata = {"raw": json.dumps(raw), "provider_name": "OpenAI"}
    about = {"message": "Provider returned error", "code": 400, "metadata": metadata}
    return 200, {"error": about, "user_id": "user_1"}


def reply_too_long(body: Body, _: str) -> tuple[int, object] | None:
    """vLLM with a short context; it knows the parameter and refuses its size."""
    asked = body.get("max_tokens") or body["max_completion_tokens"]
    return _refuse(
        f"'max_tokens' or 'max_completion_tokens' is too large: {asked}. This model's maximum "
        f"context length is 1024 tokens and your request has 1017 input tokens ({asked} > 1024 - "
        "1017).",
        "max_tokens",
    )


def answer_with(
    message: dict[str, Any] | None = None, finish: str | None = "stop", **usage: Any
) -> Reply:
    """Always the same message; `{text}` in its texts stands for the caption."""

    def reply(body: Body, text: str) -> tuple[int, object]:
        answer = complete(body, text)
        filled = json.loads(json.dumps(message).replace("{text}", text))
        answer["choices"] = [{"index": 0, "finish_reason": finish, "message": filled}]
        answer["usage"] |= usage
        return 200, answer

    return reply


def always(status: int, content: object) -> Callable[[Body, str], tuple[int, object]]:
    """The same answer to every request."""
    return lambda *_: (status, content)
