"""Chats of five turns over one image, with and without what engines keep of images and prompts.

python -m tests.perf.serve_chats

One application as shipped answers two kinds of chats in turns. Those of the one kind show the same
image in all turns. Those of the other kind show another one of the same size at each turn, so that
nothing that the engine keeps fits, and each turn encodes its image and reads the whole chat again,
as all engines here did before. Goal: at least 1.5 times as many turns a second.
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from tests.conftest import photo
from tests.perf.heavy import build_heavy
from tests.perf.measuring import format_spread, measure_in_turns, ratios, record
from tests.perf.servers import application
from tests.serve.service import about

MODEL = "captioner"
TURNS, TOKENS, PAIRS = 5, 16, 5
CHATS = {1: 1, 8: 8}
"""Chats per measurement, by number of clients."""


@dataclass
class Chatters:
    """Clients of one application.

    Attributes:
        changes: Whether a chat shows another image at each turn.
        unseen: Numbers of images that were not shown yet; the clients of an application share it.
    """

    address: str
    key: str
    changes: bool
    unseen: Iterator[int]

    def measure(self, clients: int) -> float:
        """Measure answered turns per second."""
        return asyncio.run(self._chat_all(clients))

    async def _chat_all(self, clients: int) -> float:
        count = CHATS[clients]
        chats = iter([self._paint() for _ in range(count)])
        headers = {"authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession(self.address, headers=headers) as session:

            async def client() -> None:
                for images in chats:
                    await self._chat(session, images)

            started = time.monotonic()
            await asyncio.gather(*(client() for _ in range(clients)))
            return count * TURNS / (time.monotonic() - started)

    def _paint(self) -> list[bytes]:
        """The image of each turn of a new chat."""
        count = TURNS if self.changes else 1
        images = [photo(next(self.unseen), (640, 480)) for _ in range(count)]
        return images * (TURNS // count)

    async def _chat(self, session: aiohttp.ClientSession, images: list[bytes]) -> None:
        said: list[dict[str, Any]] = []
        for turn, image in enumerate(images):
            messages = [*about(image), *said]
            body = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0, "messages": messages}
            async with session.post("/v1/chat/completions", json=body) as answer:
                found = await answer.json()
                assert answer.status == 200, found
            said += [
                {"role": "assistant", "content": found["choices"][0]["message"]["content"]},
                {"role": "user", "content": f"And what else, for the {turn}. time?"},
            ]


def main() -> None:
    """Run the benchmark, for a few minutes on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "checkpoint")
        settings = {"max_num_seqs": 32, "kv_cache_gib": 2, "cpus": 2}
        scaling = {"min_replicas": 1, "max_replicas": 1}
        model = {"id": MODEL, "path": str(checkpoint), "settings": settings, "scaling": scaling}
        model["sampling"] = {"stop_at_loops": False}
        with application(folder, models=[model], ingress=scaling) as (address, key):
            unseen = itertools.count()
            kept = Chatters(address, key, changes=False, unseen=unseen)
            _measure(kept, Chatters(address, key, changes=True, unseen=unseen))


def _measure(kept: Chatters, again: Chatters) -> None:
    for chatters in (kept, again):
        chatters.measure(8)
    figures: dict[str, Any] = {}
    lines = [
        "| clients | turns/s over one image | images that change | ratio |",
        "|---|---|---|---|",
    ]
    for clients in CHATS:
        fast, slow = measure_in_turns(
            PAIRS, partial(kept.measure, clients), partial(again.measure, clients)
        )
        figures[str(clients)] = {"kept_per_s": fast, "again_per_s": slow}
        cells = (format_spread(fast), format_spread(slow), format_spread(ratios(fast, slow), 3))
        lines.append(f"| {clients} | {' | '.join(cells)} |")
    record("serve_chats", figures, "\n".join(lines))


if __name__ == "__main__":
    main()
