"""This application's endpoints against bare `vllm serve`: same checkpoint, images, lengths, cores.

python -m tests.perf.serve_overhead

Both servers run side by side and get requests in turns, each after a pause, because vLLM's
processes poll for work for a moment before they sleep, on the core that the other server needs.
Measured for each number of clients: answered requests per second, and the time to the first
streamed piece. The ratio is ours over theirs, for each pair. At 1, keys, limits, safe decoding, the
ladder and Ray Serve cost nothing beside the engine. Goal: throughput at 32 clients at least 0.97 of
bare vLLM's.
"""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp

from tests.conftest import photo
from tests.perf.heavy import build_heavy
from tests.perf.measuring import format_spread, measure_in_turns, ratios, record
from tests.perf.servers import application, free_port, run_server
from tests.serve.service import about

MODEL = "captioner"
TOKENS = 64
SEQUENCES = 32
KV_CACHE_GIB = 2
PAIRS = 5
PAUSE_S = 1.5
REQUESTS = {1: (3, 2), 8: (12, 6), 32: (48, 16)}
"""Requests per measurement, by number of clients: for whole answers, and for streamed ones."""


@dataclass
class Server:
    """An endpoint with OpenAI's API.

    Attributes:
        first_piece_s: Seconds to the first piece of each streamed request, by number of clients.
        lengths: Different numbers of tokens of prompt and output.
        shown: Images shown so far; none is shown twice, because both servers keep images.
    """

    address: str
    key: str
    first_piece_s: dict[int, list[float]] = field(default_factory=dict)
    lengths: set[tuple[int, int]] = field(default_factory=set)
    shown: int = 0

    def throughput(self, clients: int) -> float:
        """Measure whole answers per second."""
        return asyncio.run(self._send_requests(clients, stream=False))

    def streamed(self, clients: int) -> float:
        """Measure the median seconds to the first piece."""
        self.first_piece_s[clients] = []
        asyncio.run(self._send_requests(clients, stream=True))
        return statistics.median(self.first_piece_s[clients])

    async def _send_requests(self, clients: int, stream: bool) -> float:
        await asyncio.sleep(PAUSE_S)
        count = REQUESTS[clients][stream]
        bodies = iter(_build_bodies(range(self.shown, self.shown + count), stream))
        self.shown += count
        connector = aiohttp.TCPConnector(limit=clients)
        headers = {"authorization": f"Bearer {self.key}"}
        async with aiohttp.ClientSession(
            self.address, connector=connector, headers=headers
        ) as session:

            async def client() -> None:
                for body in bodies:
                    await (
                        self._stream(session, body, clients) if stream else self._ask(session, body)
                    )

            started = time.monotonic()
            await asyncio.gather(*(client() for _ in range(clients)))
            return count / (time.monotonic() - started)

    async def _ask(self, session: aiohttp.ClientSession, body: dict[str, Any]) -> None:
        async with session.post("/v1/chat/completions", json=body) as answer:
            found = await answer.json()
            assert answer.status == 200, found
            usage = found["usage"]
            self.lengths.add((usage["prompt_tokens"], usage["completion_tokens"]))

    async def _stream(
        self, session: aiohttp.ClientSession, body: dict[str, Any], clients: int
    ) -> None:
        started = time.monotonic()
        async with session.post("/v1/chat/completions", json=body) as answer:
            assert answer.status == 200, await answer.text()
            is_first = True
            async for line in answer.content:
                if is_first and line.startswith(b"data: {") and _has_text(line):
                    self.first_piece_s[clients].append(time.monotonic() - started)
                    is_first = False


def _has_text(line: bytes) -> bool:
    choices = json.loads(line.removeprefix(b"data: "))["choices"]
    return bool(choices and choices[0]["delta"].get("content"))


def _build_bodies(seeds: range, stream: bool) -> list[dict[str, Any]]:
    asked = {"model": MODEL, "max_tokens": TOKENS, "temperature": 0, "stream": stream}
    return [asked | {"messages": about(photo(n, (640, 480)))} for n in seeds]


@contextmanager
def _run_bare(checkpoint: Path, folder: Path) -> Iterator[Server]:
    port = free_port()
    command = [
        # The module behind `vllm serve`, which does not work in vLLM's CPU build.
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(checkpoint)),
        *("--served-model-name", MODEL, "--host", "127.0.0.1", "--port", str(port)),
        *("--dtype", "float32", "--max-num-seqs", str(SEQUENCES), "--generation-config", "vllm"),
        *("--kv-cache-memory-bytes", str(KV_CACHE_GIB << 30), "--enforce-eager"),
        *("--enable-prefix-caching", "--block-size", "32", "--mm-processor-cache-gb", "2"),
        *("--limit-mm-per-prompt", '{"image": 1}', "--disable-log-stats"),
    ]
    variables = {"VLLM_LOGGING_LEVEL": "WARNING", "VLLM_NO_USAGE_STATS": "1"}
    address = f"http://127.0.0.1:{port}"
    with run_server(command, folder / "vllm.log", f"{address}/health", **variables):
        yield Server(address, "none")


@contextmanager
def _run_ours(checkpoint: Path, folder: Path) -> Iterator[Server]:
    scaling = {"min_replicas": 1, "max_replicas": 1, "max_ongoing_requests": 64}
    model = {
        "id": MODEL,
        "path": str(checkpoint),
        "settings": {"max_num_seqs": SEQUENCES, "kv_cache_gib": KV_CACHE_GIB, "cpus": 2},
        "sampling": {"stop_at_loops": False},
        "scaling": scaling,
    }
    with application(folder, models=[model], ingress=scaling) as (address, key):
        yield Server(address, key)


def main() -> None:
    """Run the benchmark, for about eight minutes on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "checkpoint")
        with _run_bare(checkpoint, folder) as bare, _run_ours(checkpoint, folder) as ours:
            _measure(ours, bare)


def _measure(ours: Server, bare: Server) -> None:
    for server in (ours, bare):
        server.throughput(8)
        server.streamed(8)
    figures: dict[str, Any] = {}
    lines = [
        "| clients | answers/s, ours | bare vLLM | ratio | first piece, ours, s | bare vLLM, s |",
        "|---|---|---|---|---|---|",
    ]
    for clients in REQUESTS:
        mine, theirs = measure_in_turns(
            PAIRS, partial(ours.throughput, clients), partial(bare.throughput, clients)
        )
        first, their_first = measure_in_turns(
            PAIRS, partial(ours.streamed, clients), partial(bare.streamed, clients)
        )
        figures[str(clients)] = {
            "ours_per_s": mine,
            "bare_per_s": theirs,
            "ours_first_piece_s": first,
            "bare_first_piece_s": their_first,
        }
        rates = (format_spread(mine), format_spread(theirs), format_spread(ratios(mine, theirs), 3))
        cells = (*rates, format_spread(first), format_spread(their_first))
        lines.append(f"| {clients} | {' | '.join(cells)} |")
    assert ours.lengths == bare.lengths, (ours.lengths, bare.lengths)
    figures["lengths"] = sorted(ours.lengths)
    record("serve_overhead", figures, "\n".join(lines))


if __name__ == "__main__":
    main()
