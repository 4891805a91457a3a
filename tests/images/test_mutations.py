"""Thousands of images with flipped, moved or missing bytes: each is a picture or a reason."""

import logging
import random
import time
from collections import Counter

import pytest

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from tests.images.corpus import KINDS

LIMIT_S = 5
SMALL = 20_000
"""Largest image in bytes that is mutated: large ones take longer and fail in the same ways."""

log = logging.getLogger(__name__)


@pytest.mark.timeout(3000)
@pytest.mark.parametrize("count", [2_000, pytest.param(100_000, marks=pytest.mark.faults)])
def test_no_mutation_harms_the_decoder(count: int) -> None:
    chance = random.Random(count)
    seeds = [kind.make(chance) for kind in KINDS.values()]
    seeds = [data for data in seeds if 0 < len(data) < SMALL]
    assert len(seeds) >= 40
    decoder = GuardedDecoder(DecodeConfig(deadline_s=LIMIT_S), Framing("crop", 32))
    ends, children, slowest = Counter[str](), set[int](), 0.0
    for _ in range(count):
        data = mutate(chance.choice(seeds), chance)
        started = time.monotonic()
        found = decoder.decode(data)
        slowest = max(slowest, time.monotonic() - started)
        ends[found.reason if isinstance(found, Refused) else "ok"] += 1
        if decoder._child:
            children.add(decoder._child.pid)
    decoder.close()
    log.info("ends: %s; %d children; slowest %.2f s", dict(ends), len(children), slowest)
    assert sum(ends.values()) == count
    assert ends["ok"] > count / 20, "too much damage tests only the first bytes"
    assert slowest < LIMIT_S


def mutate(data: bytes, chance: random.Random) -> bytes:
    """Flip from one bit up to one byte in a hundred, and one time in four also cut or splice."""
    found = bytearray(data)
    for _ in range(max(1, int(len(found) * 10 ** chance.uniform(-4, -2)))):
        found[chance.randrange(len(found))] ^= 1 << chance.randrange(8)
    if chance.random() < 0.25:
        start, end = sorted(chance.randrange(len(found)) for _ in range(2))
        found[start:end] = b"" if chance.random() < 0.5 else found[start:end] * 2
    return bytes(found)
