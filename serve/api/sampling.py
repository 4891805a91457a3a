"""Turns the sampling fields of OpenAI's and vLLM's requests into the sampling of an engine."""

import secrets
from collections.abc import Mapping
from typing import Any

from s4v_core.engines.sampling import ClientSampling, SamplingConfig
from serve.api.bodies import Drawn
from serve.front.refusals import Refusal
from serve.settings import Limits

_MOST_BIASES = 300
"""Most entries of a logit_bias, as OpenAI has it."""

_PLAIN = (
    *("temperature", "top_p", "min_p", "presence_penalty", "frequency_penalty"),
    *("repetition_penalty", "min_tokens", "ignore_eos"),
)
"""Fields that an engine takes under the same name."""


def read_sampling(
    body: Drawn, tokens: Mapping[str, int | None], default: SamplingConfig, limits: Limits
) -> ClientSampling:
    """Read the sampling of a request; what it leaves unset comes from the model's default.

    Args:
        tokens: The names by which this kind of request limits its answer, and their values; the
            first that is set counts.

    Raises:
        Refusal: 400, the answer may be too long, or logit_bias is malformed.
    """
    named = ((name, value) for name, value in tokens.items() if value is not None)
    name, most = next(named, ("max_tokens", min(default.max_tokens, limits.max_tokens)))
    if most > limits.max_tokens:
        # As OpenAI answers. A shorter answer would be a surprise later, this is one now.
        message = (
            f"{name} is too large: {most}. This model supports at most {limits.max_tokens} "
            f"completion tokens, whereas you provided {most}."
        )
        raise Refusal(400, "too_many_tokens", message, param=name)
    changes = {field: getattr(body, field) for field in _PLAIN}
    changes |= {"max_tokens": most, "stop": _read_stop(body.stop)}
    changes |= {"logit_bias": _read_biases(body.logit_bias), "top_k": max(body.top_k or 0, 0)}
    changes["seed"] = secrets.randbits(32) if body.seed is None else _check_seed(body.seed)
    if body.top_p == 0:  # no token is left to draw from but the most likely one
        changes |= {"top_p": 1.0, "temperature": 0.0}
    if (body.min_tokens or 0) > most:
        message = f"min_tokens: found {body.min_tokens}, allowed {most}, which is {name}."
        raise Refusal(400, "too_many_tokens", message, param="min_tokens")
    given = {field: value for field, value in changes.items() if value is not None}
    return ClientSampling.model_validate(dict(default) | given)


def _check_seed(seed: int) -> int:
    if not -(2**63) <= seed < 2**63:
        message = "seed: send a whole number of 64 bits, from -2**63 to 2**63 - 1."
        raise Refusal(400, "bad_seed", message, param="seed")
    return seed


def _read_stop(stop: str | list[str] | None) -> tuple[str, ...]:
    """Read the stop texts; an empty one would end every answer at once, and is left out."""
    texts = [stop] if isinstance(stop, str) else stop or []
    return tuple(filter(None, texts))


def _read_biases(biases: Mapping[str, Any] | None) -> dict[int, float]:
    found = biases or {}
    is_right = all(name.isascii() and name.isdigit() and len(name) < 10 for name in found)
    if not is_right or len(found) > _MOST_BIASES:
        message = f"logit_bias: send at most {_MOST_BIASES} token ids with a number for each."
        raise Refusal(400, "bad_logit_bias", message, param="logit_bias")
    return {int(name): value for name, value in found.items()}
