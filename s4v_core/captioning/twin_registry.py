"""The one place of a run that knows which images were captioned: the first of equal images gets a
caption, and the others get the same one."""

import asyncio
from collections import OrderedDict
from dataclasses import replace

import numpy as np

from s4v_core.captioning.asking import ImageEnding
from s4v_core.captioning.twins import HASH_BITS, LOOKS, MOST_BITS
from s4v_core.flow.driver_actors import start_beside_driver

_REMEMBERED = 500_000
"""Endings that are kept, about 0.6 GB; an image whose twin was longer ago is captioned again."""

_WAIT_S = 300.0
"""Seconds to wait for a twin that is being captioned elsewhere; after that its worker may be
dead."""

_MAX_CALLS = 100_000
"""Calls that may wait in the actor at the same time."""


class _Looks:
    """Hashes of one question's pictures, and which of them are so close that they count as one."""

    def __init__(self) -> None:
        self._words = np.zeros((1024, HASH_BITS // 64), np.uint64)
        self._count = 0

    def find_first_like(self, looks: str) -> str:
        """The first hash that is at most MOST_BITS away; `looks` itself if it is the first."""
        words = np.frombuffer(bytes.fromhex(looks), np.uint64)
        apart = np.bitwise_count(self._words[: self._count] ^ words).sum(axis=1)
        near = np.flatnonzero(apart <= MOST_BITS)
        if len(near):
            return str(self._words[near[0]].tobytes().hex())
        if self._count == len(self._words):
            self._words = np.concatenate([self._words, np.zeros_like(self._words)])
        self._words[self._count] = words
        self._count += 1
        return looks


class _TwinActor:
    def __init__(self) -> None:
        self._looks: dict[str, _Looks] = {}
        self._ended: OrderedDict[str, tuple[str, ImageEnding]] = OrderedDict()
        self._owners: dict[str, str] = {}
        self._settled: dict[str, asyncio.Event] = {}

    async def claim(self, key: str, image_id: str) -> tuple[str, ImageEnding] | None:
        """The ending of an equal image; None makes the caller the first, which must `settle`."""
        key = self._unify(key)
        if key in self._ended:
            return self._ended[key]
        if self._owners.setdefault(key, image_id) == image_id:
            return None
        settled = self._settled.setdefault(key, asyncio.Event())
        try:
            await asyncio.wait_for(settled.wait(), _WAIT_S)
        except TimeoutError:
            self._owners[key] = image_id
            return None
        return self._ended.get(key)

    def settle(self, key: str, image_id: str, ending: ImageEnding) -> None:
        key = self._unify(key)
        self._ended[key] = image_id, ending
        self._owners.pop(key, None)
        if settled := self._settled.pop(key, None):
            settled.set()
        if len(self._ended) > _REMEMBERED:
            self._ended.popitem(last=False)

    def _unify(self, key: str) -> str:
        """The key that all pictures of the same looks share."""
        question, _, picture = key.partition(":")
        if not picture.startswith(LOOKS):
            return key
        looks = self._looks.setdefault(question, _Looks())
        return f"{question}:{LOOKS}{looks.find_first_like(picture.removeprefix(LOOKS))}"


class TwinRegistry:
    """Handle of the registry; travels to the engine workers."""

    def __init__(self) -> None:
        self._actor = start_beside_driver(_TwinActor, max_concurrency=_MAX_CALLS)

    async def claim(self, key: str, image_id: str) -> ImageEnding | None:
        """How an equal image ended; None makes the caller the first, which must `settle`."""
        found: tuple[str, ImageEnding] | None = await self._actor.claim.remote(key, image_id)
        if found is None:
            return None
        twin, ending = found
        return replace(ending, attempts=0, twin_of=twin)

    async def settle(self, key: str, image_id: str, ending: ImageEnding) -> None:
        """Record how the first of equal images ended."""
        await self._actor.settle.remote(key, image_id, ending)
