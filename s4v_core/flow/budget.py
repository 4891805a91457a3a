"""Budgets of requests to endpoints: requests and tokens per minute, and money. Pure bookkeeping.

A request counts from the moment at which it is allowed until a minute after its end. Its arrival at
the endpoint lies somewhere in between, however slow the line is, so an endpoint's own count over
any sixty seconds can never be above the budget. Libraries for rate limits count the moment of
asking alone, which bounds no arrival: two requests that ask a minute apart may arrive together.
"""

import time
from collections import defaultdict, deque
from collections.abc import Callable
from dataclasses import dataclass, field

from s4v_core.engines.metering import SpendingLimitError, Usage

WINDOW_S = 60.0


@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of a run.

    Attributes:
        requests_per_minute, tokens_per_minute: Of each endpoint and key; None if there is none.
        spending: In millionths of the currency, for the whole run; None if there is none.
        input_price, output_price: Millionths of the currency per token, which is the same as the
            currency per million tokens.
        lease_s: Seconds after which a request without an end counts as ended: its worker is dead.
    """

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    spending: int | None = None
    input_price: float = 0.0
    output_price: float = 0.0
    lease_s: float = 3600.0

    def price(self, usage: Usage) -> int:
        """The price of a request in millionths of the currency."""
        cost = usage.prompt_tokens * self.input_price + usage.output_tokens * self.output_price
        return round(cost)


@dataclass(frozen=True, slots=True)
class Spending:
    """The cost of all requests so far, in millionths of the currency.

    Attributes:
        paid: Spent on answers, those of earlier processes included.
        unheard: Cost of requests that were charged, perhaps, and brought no answer.
        under_way: The most that the requests under way may cost.
        dearest: Most that one answer has cost.
    """

    paid: int
    unheard: int
    under_way: int
    dearest: int

    @property
    def spent(self) -> int:
        return self.paid + self.unheard


@dataclass(slots=True)
class _Ticket:
    window: "_Window"
    usage: Usage
    cost: int
    begun: float


@dataclass(slots=True)
class _Window:
    """Requests of one endpoint that count: those under way, and those that ended in the last
    minute."""

    requests: int = 0
    tokens: int = 0
    ended: deque[tuple[float, int]] = field(default_factory=deque)

    def forget_old(self, now: float) -> None:
        while self.ended and now - self.ended[0][0] > WINDOW_S:
            self.requests -= 1
            self.tokens -= self.ended.popleft()[1]

    def begin(self, tokens: int) -> None:
        self.requests += 1
        self.tokens += tokens

    def end(self, now: float, expected: int, used: int) -> None:
        self.tokens += used - expected
        self.ended.append((now, used))


@dataclass
class Budget:
    """The bookkeeping of all requests of a run.

    Attributes:
        paid: Spent before this process, in millionths of the currency.
    """

    limits: Limits
    paid: int = 0
    clock: Callable[[], float] = time.monotonic
    _under_way: dict[str, _Ticket] = field(default_factory=dict, init=False)
    _windows: defaultdict[str, _Window] = field(
        default_factory=lambda: defaultdict(_Window), init=False
    )
    _count: int = field(default=0, init=False)
    _committed: int = field(default=0, init=False)
    _unheard: int = field(default=0, init=False)
    _dearest: int = field(default=0, init=False)
    _most_prompt: int = field(default=0, init=False)

    @property
    def spending(self) -> Spending:
        return Spending(self.paid, self._unheard, self._committed, self._dearest)

    def begin(self, endpoint: str, most: Usage) -> str | float:
        """The ticket of a request that may be sent now, or seconds after which to ask again.

        Raises:
            SpendingLimitError: What is left does not pay for it, and nothing is under way that may
                cost less than it could.
        """
        now, window = self.clock(), self._windows[endpoint]
        self._end_dead(now)
        window.forget_old(now)
        most = Usage(max(most.prompt_tokens, self._most_prompt), most.output_tokens)
        if wait_s := self._find_wait(window, most, now) or self._check_spending(most):
            return wait_s
        self._count += 1
        ticket, cost = str(self._count), self.limits.price(most)
        self._under_way[ticket] = _Ticket(window, most, cost, now)
        self._committed += cost
        window.begin(most.tokens)
        return ticket

    def end(self, ticket: str, used: Usage | None) -> None:
        """A request has ended; None: it may have cost as much as it was allowed to."""
        found = self._under_way.pop(ticket, None)
        if found is None:  # its lease is over, and it was counted as unheard
            return
        self._committed -= found.cost
        counted = found.usage if used is None else used
        found.window.end(self.clock(), found.usage.tokens, counted.tokens)
        if used is None:
            self._unheard += found.cost
            return
        cost = self.limits.price(used)
        self.paid += cost
        self._dearest = max(self._dearest, cost)
        self._most_prompt = max(self._most_prompt, used.prompt_tokens)

    def _end_dead(self, now: float) -> None:
        """End the requests whose workers have died: the oldest come first."""
        dead = list[str]()
        for ticket, found in self._under_way.items():
            if now - found.begun <= self.limits.lease_s:
                break
            dead.append(ticket)
        for ticket in dead:
            self.end(ticket, None)

    def _find_wait(self, window: _Window, most: Usage, now: float) -> float:
        """Seconds until an endpoint's minute may have room for a request; 0 if it has."""
        requests, tokens = self.limits.requests_per_minute, self.limits.tokens_per_minute
        is_full = requests is not None and window.requests >= requests
        # A request that is larger than the whole budget goes alone: it would never fit.
        is_alone = window.requests == 0
        is_full |= tokens is not None and not is_alone and window.tokens + most.tokens > tokens
        if not is_full:
            return 0.0
        freed = window.ended[0][0] + WINDOW_S - now if window.ended else WINDOW_S
        return max(freed, 0.0) + 0.001

    def _check_spending(self, most: Usage) -> float:
        """Seconds until a request may be affordable; 0 if it is."""
        limit, spending = self.limits.spending, self.spending
        if limit is None:
            return 0.0
        # The first answer shows what this endpoint counts; until then the estimate may be low.
        if self._under_way and not self._dearest:
            return WINDOW_S
        cost = self.limits.price(most)
        if spending.spent + spending.under_way + cost <= limit:
            return 0.0
        if self._under_way:
            return WINDOW_S
        words = f"the spending limit is reached: {spending.spent / 1e6:,.4f} of {limit / 1e6:,.4f}"
        if spending.unheard:
            words += f" ({spending.unheard / 1e6:,.4f} of it for requests without an answer)"
        words += f" spent, and one more request may cost {cost / 1e6:,.4f}"
        raise SpendingLimitError("openai", words)
