"""Run metrics, as far as they go without a cluster that would export them."""

import threading
import time

import pytest
from ray.exceptions import RayError

from s4v_core.flow.prometheus import RunMetrics

ARGUMENTS = ("run", "captions", 100, 0, 2)


def _wait_for(calls: list[float], count: int) -> None:
    deadline = time.monotonic() + 10
    while len(calls) < count:
        assert time.monotonic() < deadline
        time.sleep(0.005)


def _threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "metrics"]


def test_a_pass_that_stalls_is_renewed_until_its_end() -> None:
    calls: list[float] = []

    def held_s() -> float:
        calls.append(2.0 * len(calls))
        return calls[-1]

    with RunMetrics(*ARGUMENTS, held_s, renew_every_s=0.01):
        _wait_for(calls, 3)
    assert not _threads()
    told = len(calls)
    time.sleep(0.05)
    assert len(calls) == told


def test_it_ends_with_a_pass_that_fails() -> None:
    with pytest.raises(KeyError), RunMetrics(*ARGUMENTS, lambda: 0.0):
        raise KeyError
    assert not _threads()


def test_a_cluster_in_distress_does_not_end_it() -> None:
    calls: list[float] = []

    def held_s() -> float:
        calls.append(0.0)
        raise RayError

    with RunMetrics(*ARGUMENTS, held_s, renew_every_s=0.01):
        _wait_for(calls, 3)
