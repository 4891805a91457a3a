"""The one budget of a run, which the engines of all workers ask before each request."""

import asyncio
import contextlib
from collections import defaultdict

import ray

from s4v_core.engines.metering import Usage
from s4v_core.flow.budget import Budget, Limits, Spending
from s4v_core.flow.driver_actors import start_beside_driver

_MAX_CALLS = 100_000
"""Calls that may wait in the actor at the same time."""


class _BudgetActor:
    def __init__(self, limits: Limits, paid: int) -> None:
        self._budget = Budget(limits, paid)
        self._changed = asyncio.Event()
        # First come, first served: else a large request could wait for ever behind small ones.
        self._queues: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    async def begin(self, endpoint: str, most: Usage) -> str:
        async with self._queues[endpoint]:
            while True:
                self._changed.clear()
                found = self._budget.begin(endpoint, most)
                if isinstance(found, str):
                    return found
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._changed.wait(), found)

    async def end(self, ticket: str, used: Usage | None) -> None:
        self._budget.end(ticket, used)
        self._changed.set()

    async def read_spending(self) -> Spending:
        return self._budget.spending


class SharedBudget:
    """Handle of the budget; travels to the engine workers as their meter."""

    def __init__(self, limits: Limits, paid: int = 0) -> None:
        """Args:
        paid: Spent before this process, in millionths of the currency.
        """
        self._actor = start_beside_driver(_BudgetActor, limits, paid, max_concurrency=_MAX_CALLS)

    async def begin(self, endpoint: str, most: Usage) -> str:
        """Wait until a request may be sent (`Meter.begin`)."""
        try:
            ticket: str = await self._actor.begin.remote(endpoint, most)
        except ray.exceptions.RayTaskError as error:
            raise error.cause from None
        return ticket

    async def end(self, ticket: str, used: Usage | None) -> None:
        """The request of a ticket has ended (`Meter.end`)."""
        await self._actor.end.remote(ticket, used)

    def read_spending(self) -> Spending:
        """The money spent up to now."""
        found: Spending = ray.get(self._actor.read_spending.remote())
        return found
