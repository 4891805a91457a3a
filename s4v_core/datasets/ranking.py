"""Seeded choices that depend on nothing but the seed and an item's own key."""

import hashlib
import heapq
from collections.abc import Iterable


def rank(seed: int, purpose: str, key: str | int) -> bytes:
    """An item's place in a random order: the same on every machine and Python, whatever the other
    items are."""
    return hashlib.blake2b(f"{seed}:{purpose}:{key}".encode(), digest_size=16).digest()


def choose(seed: int, purpose: str, keys: Iterable[int], count: int) -> list[int]:
    """Up to `count` keys in random order; a smaller count gives the first of these."""
    return heapq.nsmallest(count, keys, key=lambda key: rank(seed, purpose, key))
