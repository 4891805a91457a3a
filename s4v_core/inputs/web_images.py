"""The images of URLs for callers without an event loop: one loop and one session per process."""

import asyncio
import atexit
import os
import random
import threading
import time
from collections.abc import Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from s4v_core.inputs.web_answers import Failure
from s4v_core.inputs.web_fetching import Fetched, Fetcher
from s4v_core.inputs.web_policy import WebPolicy
from s4v_core.storage import UnreachableError, get_patience

_T = TypeVar("_T")

_LOOKUPS = 256
"""Names that are looked up at the same time. More than there are requests, because a lookup that
was given up still holds its thread until the resolver ends it."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 1.0, 30.0


def fetch_images(
    urls: Sequence[str], policy: WebPolicy, max_bytes: int | None = None
) -> list[bytes | str]:
    """Fetch URLs at the same time; return for each, in order, its body or the reason for none.

    Args:
        max_bytes: A longer body is refused; by default the policy's own limit.

    Raises:
        UnreachableError: No server at all could be reached for as long as the caller's patience
            lasted.
    """
    process, limit = _find_process(policy), max_bytes or policy.max_file_mib << 20
    deadline, wait_s = time.monotonic() + get_patience(), _FIRST_WAIT_S
    while True:
        started = time.monotonic()
        ends = process.call(process.fetcher.fetch_all(urls, limit))
        if not process.call(process.fetcher.suspects_network(ends, started)):
            return [_name_reason(end) for end in ends]
        if time.monotonic() > deadline:
            raise UnreachableError(urls[0], f"none of {len(urls)} URLs could reach a server")
        time.sleep(random.uniform(0, wait_s))
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def _name_reason(end: Fetched) -> bytes | str:
    return end.content.reason if isinstance(end.content, Failure) else end.content


class _WebProcess:
    """The event loop of this process for one policy, in a thread of its own."""

    def __init__(self, policy: WebPolicy) -> None:
        self._loop = asyncio.new_event_loop()
        self._loop.set_default_executor(ThreadPoolExecutor(_LOOKUPS, "s4v-lookup"))
        threading.Thread(target=self._loop.run_forever, name="s4v-web", daemon=True).start()
        self._pid = os.getpid()
        self.fetcher = self.call(_make_fetcher(policy))
        atexit.register(self._close)

    def call(self, work: Coroutine[Any, Any, _T]) -> _T:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _close(self) -> None:
        if os.getpid() == self._pid:  # a forked child has no thread that would run it
            self.call(self.fetcher.close())


async def _make_fetcher(policy: WebPolicy) -> Fetcher:
    return Fetcher(policy)


_LOCK = threading.Lock()
_PROCESSES: dict[tuple[int, WebPolicy], _WebProcess] = {}
"""By process id, because a forked child has the dictionary but not the thread."""


def _find_process(policy: WebPolicy) -> _WebProcess:
    key = (os.getpid(), policy)
    with _LOCK:
        if key not in _PROCESSES:
            _PROCESSES[key] = _WebProcess(policy)
        return _PROCESSES[key]
