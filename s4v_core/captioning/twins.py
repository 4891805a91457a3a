"""Equal images are captioned once: the first one that comes, and the others get what it got."""

import asyncio
import hashlib
from collections import OrderedDict
from dataclasses import replace
from typing import Any

import numpy as np
import ray
from PIL import Image
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s4v_core.captioning.ladder import Ending
from s4v_core.engines.requests import Dedupe

REMEMBERED = 500_000
"""Endings that are kept, about 0.6 GB; an image whose twin is longer ago is captioned again."""

WAIT_S = 300.0
"""For a twin that is being captioned elsewhere; then its worker may be dead."""

LOOKS = "looks-"
HASH_BITS = 256
MOST_BITS = 16
"""Bits of two hashes that may differ. Of 291 photographs at half their size and JPEG quality 60,
95 % lie within 16; no two different ones lie within 30, no two drawn scenes within 26."""

MANY = 100_000
"""Calls that may wait in the actor at the same time."""


def twin_key(kind: Dedupe, sha256: str, pixels: bytes, width: int, prompt: str) -> str | None:
    """What equal images asked the same share, `question:picture`; None where nobody looks for them.

    Args:
        pixels: RGB rows from the top, as the captioner sees them.
        width: Pixels of a row.
    """
    if kind == "off":
        return None
    picture = sha256 if kind == "exact" else LOOKS + difference_hash(pixels, width)
    return f"{hashlib.sha256(prompt.encode()).hexdigest()[:16]}:{picture}"


def difference_hash(pixels: bytes, width: int) -> str:
    """Whether brightness falls or rises, at 16 x 16 places: survives another size and compression,
    not a crop."""
    picture = Image.frombytes("RGB", (width, len(pixels) // width // 3), pixels)
    grey = np.asarray(picture.convert("L").resize((17, 16), Image.Resampling.BOX), np.int16)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()


class _Looks:
    """Hashes of one question's pictures, and which of them are so close that they count as one."""

    def __init__(self) -> None:
        self._words = np.zeros((1024, HASH_BITS // 64), np.uint64)
        self._count = 0

    def first_like(self, looks: str) -> str:
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


class _TwinsActor:
    def __init__(self) -> None:
        self._looks: dict[str, _Looks] = {}
        self._ended: OrderedDict[str, tuple[str, Ending]] = OrderedDict()
        self._owners: dict[str, str] = {}
        self._told: dict[str, asyncio.Event] = {}

    async def claim(self, key: str, image_id: str) -> tuple[str, Ending] | None:
        """None: the caller is the first, and tells how it ended."""
        key = self._same(key)
        if key in self._ended:
            return self._ended[key]
        if self._owners.setdefault(key, image_id) == image_id:
            return None
        told = self._told.setdefault(key, asyncio.Event())
        try:
            await asyncio.wait_for(told.wait(), WAIT_S)
        except TimeoutError:
            self._owners[key] = image_id
            return None
        return self._ended.get(key)

    def tell(self, key: str, image_id: str, ending: Ending) -> None:
        key = self._same(key)
        self._ended[key] = image_id, ending
        self._owners.pop(key, None)
        if told := self._told.pop(key, None):
            told.set()
        if len(self._ended) > REMEMBERED:
            self._ended.popitem(last=False)

    def _same(self, key: str) -> str:
        """The key that all pictures of the same looks share."""
        question, _, picture = key.partition(":")
        if not picture.startswith(LOOKS):
            return key
        looks = self._looks.setdefault(question, _Looks())
        return f"{question}:{LOOKS}{looks.first_like(picture.removeprefix(LOOKS))}"


class Twins:
    """Handle that travels to the engine actors."""

    def __init__(self) -> None:
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        actor = ray.remote(num_cpus=0, max_concurrency=MANY, scheduling_strategy=here)(_TwinsActor)
        self._actor: Any = actor.remote()

    async def claim(self, key: str, image_id: str) -> Ending | None:
        """How an equal image ended, or None for who is the first."""
        found: tuple[str, Ending] | None = await self._actor.claim.remote(key, image_id)
        if found is None:
            return None
        twin, ending = found
        return replace(ending, attempts=0, twin_of=twin)

    async def tell(self, key: str, image_id: str, ending: Ending) -> None:
        """How it ended with the first one."""
        await self._actor.tell.remote(key, image_id, ending)
