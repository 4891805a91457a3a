"""Hours of requests, half of which are aborted: memory and open files must not grow."""

import asyncio
import os
import random
import time
from collections import Counter
from pathlib import Path

import aiohttp
import numpy as np
import psutil
import pytest

from tests.conftest import photo
from tests.serve.service import FAKE, Service, served

MINUTES = float(os.environ.get("S4V_STEADY_MINUTES", "25"))
PER_S, LEAVING = 8, 0.5
SAMPLE_EVERY_S = 10
WARM = 0.4
"""Share of the time in which memory may still grow, through allocators, caches, connections."""
GROWTH_PER_H = 0.02
HOLDERS = (":Ingress", ":CaptionServer", "ProxyActor", "s4v_core.images.guard")

pytestmark = [
    pytest.mark.faults,
    pytest.mark.timeout(60 * MINUTES + 300),
    pytest.mark.usefixtures("local_ray"),
]


def test_memory_and_open_files_stay_flat_under_a_steady_load(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = FAKE | {"settings": {"cpus": 1, "max_num_seqs": 8, "fake_latency_s": 0.2}}
    guard = {"concurrent": 1000}
    with served(tmp_path, model, guard=guard) as service:
        statuses, held = asyncio.run(_steady(service))
    late = [(at, mib) for at, mib, _ in held if at > WARM * held[-1][0]]
    files = [count for at, _, count in held if at > WARM * held[-1][0]]
    at = np.array([at for at, _ in late]) / 3600
    mib = {holder: np.array([mib[holder] for _, mib in late]) for holder in HOLDERS}
    growth = {holder: float(np.polyfit(at, mib[holder], 1)[0]) for holder in HOLDERS}
    middle = {holder: round(float(np.median(mib[holder]))) for holder in HOLDERS}
    with capsys.disabled():  # Serve removes the log's handlers
        print(  # noqa: T201
            f"{dict(statuses)} in {MINUTES:g} min; MiB {middle}, per hour {growth}; "
            f"open files {min(files)} to {max(files)}"
        )
    assert set(statuses) <= {200, 499}
    assert sum(growth.values()) <= GROWTH_PER_H * sum(middle.values())
    assert files[-1] <= min(files) + 20


async def _steady(service: Service) -> tuple[Counter[int], list[tuple[float, Counter[str], int]]]:
    """Send requests. Returns answers by status, 499 for aborted ones, and samples of
    (second, MiB by holder, open files)."""
    images = [photo(seed, (640, 480)) for seed in range(64)]
    began, chance = time.monotonic(), random.Random(0)
    statuses, held, tasks = Counter[int](), list[tuple[float, Counter[str], int]](), set()
    headers = service.headers | {"content-type": "image/jpeg"}
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(
        service.address, headers=headers, connector=connector
    ) as session:

        async def ask(number: int) -> None:
            patience = chance.uniform(0.02, 0.2) if chance.random() < LEAVING else None
            try:
                async with (
                    asyncio.timeout(patience),
                    session.post("/v1/caption", data=images[number % 64]) as answer,
                ):
                    await answer.read()
                    statuses[answer.status] += 1
            except TimeoutError:
                statuses[499] += 1

        for number in range(round(60 * MINUTES * PER_S)):
            await asyncio.sleep(began + number / PER_S - time.monotonic())
            task = asyncio.create_task(ask(number))
            tasks.add(task)
            task.add_done_callback(tasks.discard)
            if number % (SAMPLE_EVERY_S * PER_S) == 0:
                held.append((time.monotonic() - began, *await asyncio.to_thread(_measure)))
        await asyncio.gather(*tasks)
    return statuses, held


def _measure() -> tuple[Counter[str], int]:
    """Measure private MiB by HOLDERS and the open files of all serving processes."""
    mib, files = Counter[str](), 0
    for process in psutil.Process().children(recursive=True):
        try:
            command = " ".join(process.cmdline())
            for holder in filter(command.__contains__, HOLDERS):
                memory = process.memory_info()
                mib[holder] += (memory.rss - memory.shared) / 2**20
                files += process.num_fds()
        except psutil.NoSuchProcess:
            continue
    return mib, files
