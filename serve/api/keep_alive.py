"""Signs of life in a stream whose engine says nothing yet."""

import asyncio
from collections.abc import AsyncIterator
from typing import TypeVar

T = TypeVar("T")

KEEP_ALIVE_S = 10.0
"""Seconds of silence after which a stream gets a comment: less than gateways and clients wait."""

COMMENT = b": waiting for the engine\n\n"
"""A comment of server-sent events, which every client skips."""

COLD_RETRY_S = 60.0
"""Seconds after which to ask again for a model whose engine is still starting."""


async def fill_silence(pieces: AsyncIterator[T], every_s: float) -> AsyncIterator[T | None]:
    """Pass pieces on, and None whenever none has come for `every_s` seconds."""
    waiting = asyncio.ensure_future(_take(pieces))
    try:
        while True:
            done, _ = await asyncio.wait((waiting,), timeout=every_s)
            if not done:
                yield None
                continue
            found = waiting.result()
            if not found:
                return
            yield found[0]
            waiting = asyncio.ensure_future(_take(pieces))
    finally:
        waiting.cancel()


async def _take(pieces: AsyncIterator[T]) -> list[T]:
    """Take the next piece, in a list that is empty at the end: a task must not raise StopAsync."""
    async for piece in pieces:
        return [piece]
    return []
