"""Run metrics without a cluster that would export them."""

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


def _find_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "metrics"]


def test_metrics_of_a_stalled_pass_are_renewed_until_its_end() -> None:
    calls: list[float] = []

    def held_s() -> float:
        calls.append(2.0 * len(calls))
        return calls[-1]

    with RunMetrics(*ARGUMENTS, held_s, renew_every_s=0.01):
        _wait_for(calls, 3)
    assert not _find_threads()
    calls_at_end = len(calls)
    time.sleep(0.05)
    assert len(calls) == calls_at_end


def test_renewal_ends_with_a_pass_that_fails() -> None:
    with pytest.raises(KeyError), RunMetrics(*ARGUMENTS, lambda: 0.0):
        raise KeyError
    assert not _find_threads()


def test_ray_errors_do_not_end_the_renewal() -> None:
    calls: list[float] = []

    def held_s() -> float:
        calls.append(0.0)
        raise RayError

    with RunMetrics(*ARGUMENTS, held_s, renew_every_s=0.01):
        _wait_for(calls, 3)
