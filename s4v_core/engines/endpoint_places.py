"""Endpoints that serve the same model: which of them gets the next request, and how many at once.

An endpoint that says that it is overloaded gets half as many requests at the same time, and one
more for each round of answers after that (additive increase, multiplicative decrease). One that
names a time gets nothing before it.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Generic, Protocol, TypeVar

from s4v_core.errors import EngineError


class Addressed(Protocol):
    """A client of one endpoint."""

    @property
    def address(self) -> str:
        """Where requests go, and which key they go with; never the key itself."""
        ...


C = TypeVar("C", bound=Addressed)


@dataclass
class Place(Generic[C]):
    """One endpoint and what is known of its state.

    Attributes:
        most: Requests that it may get at the same time.
        failure: Why it gets no requests any more; None while it gets some.
    """

    client: C
    most: int
    failure: EngineError | None = None
    under_way: int = field(default=0, init=False)
    allowed: float = field(init=False)
    _rests_until: float = field(default=0.0, init=False)
    _cut_at: float = field(default=-1.0, init=False)

    def __post_init__(self) -> None:
        self.allowed = float(self.most)

    @property
    def load(self) -> float:
        return (self.under_way + 1) / self.allowed

    def rest_s(self, now: float) -> float:
        """Seconds until it may get requests again."""
        return max(self._rests_until - now, 0.0)

    def is_ready(self, now: float) -> bool:
        has_room = self.under_way < max(int(self.allowed), 1)
        return self.failure is None and has_room and not self.rest_s(now)

    def note_answer(self) -> None:
        self.allowed = min(self.allowed + 1 / self.allowed, float(self.most))

    def note_overload(self, sent_at: float, now: float, rest_s: float | None) -> None:
        """Send less: one cut for all requests that were under way when it was made."""
        if sent_at > self._cut_at:
            self.allowed, self._cut_at = max(self.allowed / 2, 1.0), now
        if rest_s:
            self._rests_until = max(self._rests_until, now + rest_s)


class Places(Generic[C]):
    """The endpoints of one engine. Used from one event loop."""

    def __init__(
        self, clients: Sequence[C], most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Args:
        most: Requests that each of them may get at the same time.
        """
        assert clients, "an engine has an endpoint"
        self.all = [Place(client, most) for client in clients]
        self._clock = clock
        self._changed = asyncio.Event()

    async def take(self, avoid: Place[C] | None = None) -> Place[C]:
        """Wait for an endpoint with room; the caller gives it back.

        Args:
            avoid: The endpoint that has just failed the request; it is taken only if no other one
                is ready.
        """
        while True:
            now = self._clock()
            ready = [place for place in self.all if place.is_ready(now)]
            if ready:
                chosen = min(ready, key=lambda place: (place is avoid, place.load))
                chosen.under_way += 1
                return chosen
            self._changed.clear()
            rests = [rest for place in self._alive() if (rest := place.rest_s(now))]
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(rests, default=None))

    def give_back(self, place: Place[C]) -> None:
        place.under_way -= 1
        self._changed.set()

    def has_other_ready(self, place: Place[C]) -> bool:
        now = self._clock()
        return any(one is not place and one.is_ready(now) for one in self.all)

    def give_up(self, place: Place[C], failure: EngineError) -> bool:
        """Send nothing more to an endpoint; returns whether another one is left.

        The last one is never given up: its failure is the engine's.
        """
        if not any(one is not place for one in self._alive()):
            return False
        place.failure = place.failure or failure
        self._changed.set()
        return True

    def _alive(self) -> list[Place[C]]:
        return [place for place in self.all if place.failure is None]
