"""Answers of a deployment handle whose replica is in this process."""

import asyncio
import inspect
from collections.abc import AsyncIterator, Callable
from typing import Any


class HandleMethod:
    """A method of such a handle: its answers can be awaited or iterated, and cancelled."""

    def __init__(self, call: Callable[..., Any]) -> None:
        self._call = call

    def remote(self, *args: Any) -> Any:
        found = self._call(*args)
        return asyncio.ensure_future(found) if inspect.iscoroutine(found) else _Pieces(found)


class _Pieces:
    def __init__(self, pieces: AsyncIterator[Any]) -> None:
        self._pieces = pieces

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._pieces

    def cancel(self) -> None:
        """The iterator ends by itself when nobody asks it for more."""
