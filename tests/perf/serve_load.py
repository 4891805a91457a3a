"""The endpoints under requests that arrive at a fixed rate, with the fake engine of 200 ms.

python -m tests.perf.serve_load [--steady-s 30] [--overload-s 30]

Requests arrive at fixed times, however slow the answers are; each is a 640x480 JPEG for
`/v1/caption`. Steady load, with twice the engine slots that it needs: how long answers take, 200 ms
of which are the engine's; goal: p50 260 ms, p99 600 ms. Overload, with three and ten times the
engine's capacity: how much of the peak rate is still answered, how soon the rest is refused, and
how soon answers are normal again. Leaving: half of the clients disconnect before their answer; how
the others are served meanwhile. The client shares the cores. The cores used by each process during
the overload show what would have to become faster.
"""

import argparse
import asyncio
import random
import statistics
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from tests.conftest import photo
from tests.perf.measuring import CoreWatch, format_shares, record
from tests.perf.servers import application

LATENCY_S = 0.2
SLOTS = 4
CAPACITY_PER_S = SLOTS / LATENCY_S
STEADY_PER_S, STEADY_S, STEADY_SLOTS = 20, 30, 8
CALM_PER_S, PEAK_S = 15, 20
OVERLOADS, OVERLOAD_S = (3, 10), 30
"""Multiples of the capacity, and seconds of each overload."""
LEAVING = 450
REFUSED = (429, 503)


@dataclass(frozen=True)
class Answer:
    """The answer to one request.

    Attributes:
        status: HTTP status; 499 if the client disconnected.
        at: Seconds from the start of the load to sending.
        seconds: Seconds from sending to the last byte, or to disconnecting.
        has_retry_after: Whether the answer has a Retry-After header.
    """

    status: int
    at: float
    seconds: float
    has_retry_after: bool


class Client:
    """Sends requests at fixed times over one session."""

    def __init__(self, address: str, key: str) -> None:
        self._address = address
        self._headers = {"authorization": f"Bearer {key}", "content-type": "image/jpeg"}
        self._images = [photo(seed, (640, 480)) for seed in range(64)]

    def load(self, per_s: float, seconds: float, leaving: float = 0.0) -> list[Answer]:
        """Send requests at a fixed rate; return their answers.

        Args:
            leaving: Share of requests that the client gives up within the engine's 200 ms.
        """
        return asyncio.run(self._load(per_s, seconds, leaving))

    async def _load(self, per_s: float, seconds: float, leaving: float) -> list[Answer]:
        began, chance = time.monotonic(), random.Random(0)
        tasks = []
        timeout = aiohttp.ClientTimeout(total=130)
        async with aiohttp.ClientSession(
            self._address,
            headers=self._headers,
            timeout=timeout,
            connector=aiohttp.TCPConnector(limit=0),
        ) as session:
            for number in range(round(per_s * seconds)):
                await asyncio.sleep(began + number / per_s - time.monotonic())
                patience = chance.uniform(0.02, LATENCY_S) if chance.random() < leaving else None
                tasks.append(asyncio.create_task(self._ask(session, number, began, patience)))
            return await asyncio.gather(*tasks)

    async def _ask(
        self, session: aiohttp.ClientSession, number: int, began: float, patience: float | None
    ) -> Answer:
        sent = time.monotonic()
        status, retry_after = 0, False
        try:
            async with (
                asyncio.timeout(patience),
                session.post("/v1/caption", data=self._images[number % 64]) as answer,
            ):
                await answer.read()
                status, retry_after = answer.status, "retry-after" in answer.headers
        except TimeoutError:
            status = 499
        return Answer(status, sent - began, time.monotonic() - sent, retry_after)


def _compute_milliseconds(answers: Sequence[Answer]) -> tuple[float, float]:
    """Compute the median and the 99th percentile of the answer times."""
    found = sorted(1000 * answer.seconds for answer in answers)
    return statistics.median(found), found[min(len(found) - 1, int(len(found) * 0.99))]


PROCESSES = {"ProxyActor": "proxy", ":Ingress": "ingress", ":CaptionServer": "engine"}
"""Name of a process, by a part of its title."""


def main(steady_s: int = STEADY_S, overload_s: int = OVERLOAD_S) -> None:
    """Run the benchmark, for about six minutes."""
    with _fake_endpoint(STEADY_SLOTS) as client:
        steady = client.load(STEADY_PER_S, steady_s)
    rows = {
        f"steady {STEADY_PER_S}/s for {steady_s} s, {STEADY_SLOTS} places": _describe_answers(
            steady
        )
    }
    with _fake_endpoint(SLOTS) as client:
        rows |= _measure_loads(client, overload_s)
    lines = ["| load | result |", "|---|---|"]
    lines += [f"| {name} | {outcome} |" for name, outcome in rows.items()]
    record("serve_load", rows, "\n".join(lines))


@contextmanager
def _fake_endpoint(slots: int) -> Iterator[Client]:
    # The replica holds some waiting requests, so that the engine is not idle between messages.
    scaling = {"min_replicas": 1, "max_replicas": 1, "max_ongoing_requests": 2 * slots}
    model = {
        "id": "share-captioner",
        "path": "none",
        "engine": "fake",
        "settings": {"cpus": 1, "max_num_seqs": slots, "fake_latency_s": LATENCY_S},
        "scaling": scaling | {"max_queued_requests": slots},
    }
    ingress = {"min_replicas": 1, "max_replicas": 1, "max_ongoing_requests": 64}
    with (
        tempfile.TemporaryDirectory() as folder,
        application(Path(folder), models=[model], ingress=ingress) as (address, key),
    ):
        client = Client(address, key)
        client.load(5, 5)
        yield client


def _measure_loads(client: Client, overload_s: int) -> dict[str, str]:
    """Measure overload, the time after it, and clients that disconnect."""
    peak = _compute_answer_rate(client.load(CAPACITY_PER_S, PEAK_S), PEAK_S)
    rows = {}
    for times in OVERLOADS:
        rows |= _measure_overload(client, times, overload_s, peak)
    after = client.load(CALM_PER_S, 20)
    rows["the 10 s after it"] = _describe_answers([answer for answer in after if answer.at < 10])
    rows["the 10 s after those"] = _describe_answers(
        [answer for answer in after if answer.at >= 10]
    )
    left = client.load(CALM_PER_S, LEAVING / CALM_PER_S, leaving=0.5)
    stayed = [answer for answer in left if answer.status != 499]
    rows[f"half of {LEAVING} clients leave; those who stay"] = _describe_answers(stayed)
    return rows


def _measure_overload(client: Client, times: int, seconds: int, peak: float) -> dict[str, str]:
    """Measure the outcome of the requests and the cores used during an overload."""
    with CoreWatch(PROCESSES, "rest of Ray", "client") as watch:
        answers = client.load(times * CAPACITY_PER_S, seconds)
    answered = [answer for answer in answers if answer.status == 200]
    refused = [answer for answer in answers if answer.status in REFUSED]
    others = [answer for answer in answers if answer.status not in (200, *REFUSED)]
    assert all(answer.has_retry_after for answer in refused)
    share = f"{_compute_answer_rate(answers, seconds) / peak:.0%} of the peak of {peak:.1f}/s"
    about = f"{times} times the capacity"
    return {
        f"{about} for {seconds} s, answered": f"{_describe_answers(answered)}; {share}",
        f"{about}, refused": _describe_answers(refused),
        f"{about}, anything else": _describe_answers(others),
        f"{about}, cores in use": format_shares(watch.cores()),
    }


def _compute_answer_rate(answers: Sequence[Answer], seconds: float) -> float:
    return sum(answer.status == 200 for answer in answers) / seconds


def _describe_answers(answers: Sequence[Answer]) -> str:
    if not answers:
        return "none"
    middle, last = _compute_milliseconds(answers)
    statuses = ", ".join(f"{n} x {s}" for s, n in Counter(a.status for a in answers).items())
    return f"{statuses}; p50 {middle:.0f} ms, p99 {last:.0f} ms"


def _parse_durations() -> tuple[int, int]:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--steady-s", type=int, default=STEADY_S)
    parser.add_argument("--overload-s", type=int, default=OVERLOAD_S)
    asked = parser.parse_args()
    return asked.steady_s, asked.overload_s


if __name__ == "__main__":
    main(*_parse_durations())
