"""Counts the statistics of a set on all cores of a machine, in bounded memory."""

import multiprocessing
import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from itertools import chain, islice

from s4v_core.analysis.set_statistics import SetStatistics

_PART = 500
"""Captions that a process counts at a time: a second or so of long ones."""

_FEW_PARTS = 4
"""A set of fewer is counted here: starting processes would take longer."""

_PARTS_AHEAD = 3


def count_captions(
    texts: Iterable[str],
    workers: int | None = None,
    on_captions: Callable[[int], object] | None = None,
) -> SetStatistics:
    """Count captions; the same for any number of workers.

    Args:
        workers: Number of processes; None for one per core.
        on_captions: Called with numbers of captions that have been counted.
    """
    workers = workers or len(os.sched_getaffinity(0))
    parts = _cut(iter(texts))
    first = list(islice(parts, _FEW_PARTS))
    is_parallel = workers > 1 and len(first) == _FEW_PARTS
    every = chain(first, parts)
    found = _count_parallel(every, workers) if is_parallel else map(SetStatistics.count, every)
    total = SetStatistics()
    for one in found:
        total.add(one)
        if on_captions:
            on_captions(one.captions)
    return total


def _cut(texts: Iterator[str]) -> Iterator[list[str]]:
    while part := list(islice(texts, _PART)):
        yield part


def _count_parallel(parts: Iterator[list[str]], workers: int) -> Iterator[SetStatistics]:
    """Count parts side by side; yield the counts in the order of the parts."""
    context = multiprocessing.get_context("spawn")  # threads of pyarrow run here
    waiting: deque[Future[SetStatistics]] = deque()
    with ProcessPoolExecutor(workers, mp_context=context) as pool:
        for part in parts:
            waiting.append(pool.submit(SetStatistics.count, part))
            if len(waiting) >= workers * _PARTS_AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
