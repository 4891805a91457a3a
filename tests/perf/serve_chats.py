"""Chats of five turns over one image, with and without what engines keep of images and prompts.

python -m tests.perf.serve_chats

Two applications with the same checkpoint run side by side and are measured in turns. One is as
shipped. The other has neither a cache of images nor one of prefixes, as all engines here were
before, so that each turn encodes the image again. Goal: at least 1.5 times as many turns a second.
"""

import asyncio
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
UNCACHED = {"enable_prefix_caching": False, "mm_processor_cache_gb": 0}


@dataclass
class Chatters:
    """Clients of one application.

    Attributes:
        shown: Images shown so far; every chat has one of its own.
    """

    address: str
    key: str
    shown: int = 0

    def measure(self, clients: int) -> float:
        """Measure answered turns per second."""
        return asyncio.run(self._chat_all(clients))

    async def _chat_all(self, clients: int) -> float:
        count = CHATS[clients]
        images = iter([photo(self.shown + n, (640, 480)) for n in range(count)])
        self.shown += count
        headers = {"authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession(self.address, headers=headers) as session:

            async def client() -> None:
                for image in images:
                    await self._chat(session, image)

            started = time.monotonic()
            await asyncio.gather(*(client() for _ in range(clients)))
            return count * TURNS / (time.monotonic() - started)

    async def _chat(self, session: aiohttp.ClientSession, image: bytes) -> None:
        messages: list[dict[str, Any]] = about(image)
        for turn in range(TURNS):
            body = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0, "messages": messages}
            async with session.post("/v1/chat/completions", json=body) as answer:
                found = await answer.json()
                assert answer.status == 200, found
            said = found["choices"][0]["message"]["content"]
            messages += [
                {"role": "assistant", "content": said},
                {"role": "user", "content": f"And what else, for the {turn}. time?"},
            ]


@contextmanager
def _serve(checkpoint: Path, folder: Path, **engine_args: Any) -> Iterator[Chatters]:
    folder.mkdir()
    settings = {"max_num_seqs": 32, "kv_cache_gib": 2, "cpus": 2, "engine_args": engine_args}
    scaling = {"min_replicas": 1, "max_replicas": 1}
    model = {"id": MODEL, "path": str(checkpoint), "settings": settings, "scaling": scaling}
    model["sampling"] = {"stop_at_loops": False}
    with application(folder, models=[model], ingress=scaling) as (address, key):
        yield Chatters(address, key)


def main() -> None:
    """Run the benchmark, for a few minutes on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "checkpoint")
        with (
            _serve(checkpoint, folder / "kept") as kept,
            _serve(checkpoint, folder / "again", **UNCACHED) as again,
        ):
            _measure(kept, again)


def _measure(kept: Chatters, again: Chatters) -> None:
    for chatters in (kept, again):
        chatters.measure(8)
    figures: dict[str, Any] = {}
    lines = ["| clients | turns/s, as shipped | without caches | ratio |", "|---|---|---|---|"]
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
