"""The hosts that a process fetches from: how many requests each gets, and which are left alone."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

from yarl import URL

from s4v_core.inputs.web_answers import Failure
from s4v_core.inputs.web_policy import WebPolicy

_MAX_HOSTS = 4096
"""Hosts that are remembered. Beyond that, those without a request in flight are forgotten."""

_MIN_ANSWERS = 30
_USUAL_SPREAD = 3
_SHORTEST_LIMIT_S = 1.2  # a first packet that is lost is sent again after one second
"""A host that has given this many answers is known. Once one of its URLs stays silent for the whole
limit of the policy, the others wait only `_USUAL_SPREAD` times as long as its slowest answer took:
otherwise each unit with a silent URL would take the full time.
"""

_MAX_VAIN_RETRIES = 8
"""URLs of a host in a row that failed in all their tries, after which the next get one try each."""


class Host:
    """One host and port, with what its last requests have shown.

    Attributes:
        has_answered: Whether it answered this process at all.
        resting: The failure for which it is left alone, until `rests_until`.
    """

    def __init__(self, policy: WebPolicy) -> None:
        self._policy = policy
        self._slots = asyncio.Semaphore(policy.max_requests_per_host)
        self._users = 0
        self._failures = self._refusals = 0
        self._answers = self._vain_retries = 0
        self._has_been_silent = False
        self._slowest_s = self._last_answer = self._paused_until = 0.0
        self.has_answered = False
        self.resting: Failure | None = None
        self.rests_until = 0.0

    @property
    def is_idle(self) -> bool:
        return not self._users and not self.find_rest()

    def find_rest(self) -> Failure | None:
        """The failure for which the host is left alone just now, if it is."""
        return self.resting if time.monotonic() < self.rests_until else None

    def wake(self) -> None:
        """Forget the failures: they may have been our own network's."""
        self._failures, self.rests_until = 0, 0.0

    @asynccontextmanager
    async def enter(self) -> AsyncIterator[None]:
        """Wait until the host may get one more request."""
        self._users += 1
        try:
            async with self._slots:
                if (wait_s := self._paused_until - time.monotonic()) > 0:
                    await asyncio.sleep(wait_s)
                yield
        finally:
            self._users -= 1

    @property
    def answer_limit_s(self) -> float | None:
        """Longest time for an answer to begin, as earlier ones suggest; None if they do not."""
        if not self._has_been_silent or self._answers < _MIN_ANSWERS:
            return None
        return max(_USUAL_SPREAD * self._slowest_s, _SHORTEST_LIMIT_S)

    def note_answer(self, started: float) -> None:
        self._failures, self._last_answer = 0, time.monotonic()
        self._slowest_s = max(self._slowest_s, self._last_answer - started)
        self._answers += 1
        self.has_answered = True

    def note_refusal(self, failure: Failure | None) -> None:
        """Slow down for a host that says twice in a row that it is asked too often."""
        is_refusal = failure is not None and failure.reason == "rate_limited"
        self._refusals = self._refusals + 1 if is_refusal else 0
        if failure is not None and self._refusals > 1:
            wait_s = min(failure.wait_s or 1.0, self._policy.max_wait_s)
            self._paused_until = time.monotonic() + wait_s

    @property
    def is_worth_retries(self) -> bool:
        """Whether further tries have helped lately, or may."""
        return self._vain_retries < _MAX_VAIN_RETRIES

    def note_retries(self, helped: bool) -> None:
        self._vain_retries = 0 if helped else self._vain_retries + 1

    def note_failure(self, failure: Failure, started: float) -> None:
        """Count a request that did not reach the host, or got no answer while no other did."""
        self._has_been_silent |= not failure.is_unreached
        if self._last_answer >= started:
            return
        self._failures += 1
        if self._failures >= self._policy.max_host_failures:
            self.resting = replace(failure, retries=0)
            self.rests_until = time.monotonic() + self._policy.host_rest_s


class Hosts:
    """All hosts of one process.

    Attributes:
        last_answer: Time (monotonic) of the last answer of any of them.
    """

    def __init__(self, policy: WebPolicy) -> None:
        self._policy = policy
        self._hosts: dict[str, Host] = {}
        self.last_answer = 0.0

    def find(self, url: URL) -> Host:
        """The host of a URL."""
        name = f"{url.host}:{url.port}"
        if name not in self._hosts:
            if len(self._hosts) >= _MAX_HOSTS:
                self._hosts = {key: host for key, host in self._hosts.items() if not host.is_idle}
            self._hosts[name] = Host(self._policy)
        return self._hosts[name]

    def wake(self) -> None:
        """Try all hosts again that are left alone."""
        for host in self._hosts.values():
            host.wake()
