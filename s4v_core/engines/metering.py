"""The interface of a meter: it allows requests to endpoints one by one, and knows what they cost.

Engines behind endpoints ask it before every request that leaves them, repeated ones included, and
tell it afterwards what the request has used. One meter may serve the engines of many workers.
"""

from dataclasses import dataclass
from typing import Protocol

from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import EngineError

_CHARACTERS_PER_TOKEN = 3
"""English text has about four; an estimate that is too high waits a little too long."""

_TILE_PX, _TILE_TOKENS, _PICTURE_TOKENS = 512, 170, 85
"""Tokens of a picture as OpenAI counts them for GPT-4 with vision and GPT-4o in high detail: some
for the picture, and some for each tile of it. Other models count otherwise; what an endpoint's
answers say replaces the estimate."""


@dataclass(frozen=True, slots=True)
class Usage:
    """Tokens of one request."""

    prompt_tokens: int = 0
    output_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.output_tokens


class SpendingLimitError(EngineError):
    """A request would cost more than what is left of the spending limit."""


class Meter(Protocol):
    """Allows requests; the same one for all workers of a run."""

    async def begin(self, endpoint: str, most: Usage) -> str:
        """Wait until a request may be sent; returns its ticket.

        Args:
            endpoint: Address and key that the request goes to; budgets are kept for each.
            most: The most that the request is expected to use.

        Raises:
            SpendingLimitError: What is left of the spending limit does not pay for it.
        """
        ...

    async def end(self, ticket: str, used: Usage | None) -> None:
        """The request of a ticket has ended.

        Args:
            used: What it has used; None if nothing was heard and it may have been charged.
        """
        ...


def estimate_usage(request: Request, sampling: SamplingConfig) -> Usage:
    """The most that a request is expected to use."""
    texts = [request.prompt, request.system or "", request.prefill]
    texts += [text for turn in request.earlier for text in turn]
    tokens = sum(len(text) // _CHARACTERS_PER_TOKEN + 8 for text in texts if text)
    tokens += sum(count_picture_tokens(one.shape[1], one.shape[0]) for one in request.images)
    return Usage(tokens, sampling.max_tokens)


def count_picture_tokens(width: int, height: int) -> int:
    """Tokens of a picture of this size by OpenAI's rule of tiles."""
    tiles = -(-width // _TILE_PX) * -(-height // _TILE_PX)
    return _PICTURE_TOKENS + tiles * _TILE_TOKENS


def read_usage(answer: Generation) -> Usage | None:
    """The usage that an endpoint states with its answer; None if it states none."""
    if answer.prompt_tokens is None and answer.output_tokens is None:
        return None
    return Usage(answer.prompt_tokens or 0, answer.output_tokens or 0)
