"""The budget of requests: never more in any minute than allowed, and no more money than allowed."""

import asyncio
import heapq
import random

import pytest

from s4v_core.engines.metering import SpendingLimitError, Usage
from s4v_core.flow.budget import WINDOW_S, Budget, Limits
from s4v_core.flow.shared_budget import SharedBudget
from tests.collection.collected_run import find_busiest

MOST = Usage(100, 50)


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def _simulate(limits: Limits, requests: int, slowest_s: float) -> list[tuple[float, int]]:
    """Send as fast as the budget allows to an endpoint that counts each request at any moment
    between its start and its end; returns arrivals and tokens."""
    chance, clock = random.Random(3), Clock()
    budget = Budget(limits, clock=clock)
    ends: list[tuple[float, str, Usage]] = []
    arrivals: list[tuple[float, int]] = []
    while len(arrivals) < requests:
        found = budget.begin("a", MOST)
        if isinstance(found, str):
            took = chance.uniform(0.0, slowest_s)
            used = Usage(chance.randint(60, 100), chance.randint(1, 50))
            arrivals.append((clock.now + chance.uniform(0.0, took), used.tokens))
            heapq.heappush(ends, (clock.now + took, found, used))
            continue
        wake = clock.now + found
        while ends and ends[0][0] <= wake:
            clock.now, ticket, used = heapq.heappop(ends)
            budget.end(ticket, used)
            wake = clock.now
        clock.now = max(clock.now, wake)
    return sorted(arrivals)


@pytest.mark.parametrize("slowest_s", [0.01, 5.0, 200.0])
def test_no_minute_has_more_requests_than_allowed_wherever_they_arrive(slowest_s: float) -> None:
    arrivals = _simulate(Limits(requests_per_minute=50), 500, slowest_s)
    assert find_busiest([at for at, _ in arrivals]) <= 50
    # It is used, too: ten minutes' worth takes hardly longer than waiting for answers explains.
    assert arrivals[-1][0] - arrivals[0][0] < 10 * (WINDOW_S + slowest_s)


def test_no_minute_has_more_tokens_than_allowed() -> None:
    arrivals = _simulate(Limits(tokens_per_minute=3000), 300, 5.0)
    for at, _ in arrivals:
        within = sum(tokens for then, tokens in arrivals if at <= then < at + WINDOW_S)
        assert within <= 3000


def test_a_request_larger_than_the_budget_goes_alone() -> None:
    clock = Clock()
    budget = Budget(Limits(tokens_per_minute=10), clock=clock)
    ticket = budget.begin("a", MOST)
    assert isinstance(ticket, str)
    assert isinstance(budget.begin("a", MOST), float)
    budget.end(ticket, Usage(90, 10))
    clock.now += WINDOW_S + 0.1
    assert isinstance(budget.begin("a", MOST), str)


def test_endpoints_have_budgets_of_their_own() -> None:
    budget = Budget(Limits(requests_per_minute=1))
    assert isinstance(budget.begin("a", MOST), str)
    assert isinstance(budget.begin("a", MOST), float)
    assert isinstance(budget.begin("b", MOST), str)


def test_a_dead_worker_gives_its_request_back_and_may_have_been_charged() -> None:
    clock = Clock()
    limits = Limits(requests_per_minute=1, lease_s=100.0, input_price=1.0, output_price=1.0)
    budget = Budget(limits, clock=clock)
    dead = budget.begin("a", MOST)
    clock.now += 101
    assert isinstance(budget.begin("a", MOST), float)  # it counts for a minute more
    assert budget.spending.unheard == 150
    clock.now += WINDOW_S + 0.1
    assert isinstance(budget.begin("a", MOST), str)
    assert isinstance(dead, str)
    budget.end(dead, MOST)  # late, and counted already
    assert (budget.spending.paid, budget.spending.unheard) == (0, 150)


def test_money_is_never_promised_twice() -> None:
    limits = Limits(spending=1000, input_price=1.0, output_price=4.0)  # a request: 300 at most
    budget = Budget(limits)
    first = budget.begin("a", MOST)
    assert isinstance(budget.begin("a", MOST), float)  # what an answer costs is not known yet
    assert isinstance(first, str)
    budget.end(first, Usage(100, 10))  # 140
    under_way = [budget.begin("a", MOST) for _ in range(3)]
    assert [type(one) for one in under_way] == [str, str, float]
    for ticket in under_way[:2]:
        budget.end(str(ticket), Usage(100, 50))  # 300
    assert budget.spending.paid == 740
    with pytest.raises(SpendingLimitError, match=r"0\.0007 of 0\.0010 spent"):
        budget.begin("a", MOST)


def test_an_endpoint_that_counts_more_than_expected_is_believed() -> None:
    budget = Budget(Limits(spending=2000, input_price=1.0, output_price=0.0))
    ticket = budget.begin("a", MOST)
    budget.end(str(ticket), Usage(900, 10))
    assert isinstance(budget.begin("a", MOST), str)
    assert isinstance(budget.begin("a", MOST), float)  # 900 + 900 + 900 > 2000


@pytest.mark.usefixtures("local_ray")
def test_workers_share_one_budget() -> None:
    budget = SharedBudget(Limits(spending=500, input_price=1.0, output_price=4.0), paid=50)

    async def ask() -> list[str]:
        async def one() -> str:
            try:
                ticket = await budget.begin("a", MOST)
            except SpendingLimitError:
                return "refused"
            await asyncio.sleep(0.05)
            await budget.end(ticket, Usage(100, 0))
            return "sent"

        return await asyncio.gather(*(one() for _ in range(5)))

    # Ray may begin calls to such an actor in another order than they were sent.
    assert sorted(asyncio.run(ask())) == ["refused"] * 3 + ["sent"] * 2
    assert budget.read_spending().spent == 250
