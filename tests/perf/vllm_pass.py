"""`caption.py` with vLLM, and the settings and types that the other ways share with it."""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import write_tar
from tests.flow.oracle import check_rows
from tests.flow.scripts import start, wait_for_units
from tests.perf.measuring import CoreWatch
from tests.perf.passes import PROCESSES
from tests.perf.stopping import Family

SHARD, UNIT = 16, 16
"""Images per shard and per unit; as by default, the engine processes a whole unit at once."""
LIMIT_S = 600
"""Time limit for a pass to start, or to caption the images of one measurement."""
LONGEST_STOP_S = 3600
"""Longest stop of an engine during other ways' turns, which must not count as a hang."""
TOKENS, SEQUENCES, STEP_TOKENS, KV_CACHE_GIB = 64, 16, 8192, 1
ENGINE: dict[str, Any] = {
    "dtype": "float32",
    "max_num_seqs": SEQUENCES,
    "max_num_batched_tokens": STEP_TOKENS,
    "enforce_eager": True,
    "limit_mm_per_prompt": {"image": 1},
    "mm_processor_cache_gb": 0,
    "enable_prefix_caching": False,
    "kv_cache_memory_bytes": KV_CACHE_GIB << 30,
    "generation_config": "vllm",
}
"""The engine settings of the pass as arguments of vLLM, for the other ways."""


@dataclass
class Report:
    """The figures of a measurement, for each image.

    Attributes:
        done_at: End times, in seconds of any clock.
        prompt_tokens: Tokens of the prompts.
        output_tokens: Tokens of the captions.
    """

    done_at: list[float] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)


class Slices:
    """Measurements of a way that reports the end times of images only when it is closed."""

    def __init__(self, counted: int) -> None:
        """Start without measurements.

        Args:
            counted: Images per measurement.
        """
        self.counted = counted
        self._begun: list[tuple[float, Report]] = []

    def begin(self) -> tuple[float, Report]:
        """Begin a measurement; return the time (seconds since 1970) and its empty report."""
        self._begun.append((time.time(), Report()))
        return self._begun[-1]

    def fill(self, ends: Iterable[tuple[float, int, int]]) -> None:
        """Fill all reports.

        Args:
            ends: For each image its end time, and the tokens of its prompt and its caption.
        """
        ends = sorted(ends)
        for since, report in self._begun:
            later = [end for end in ends if end[0] > since][: self.counted]
            columns = report.done_at, report.prompt_tokens, report.output_tokens
            for column, values in zip(columns, zip(*later, strict=True), strict=True):
                column.extend(values)


class MeasuredWay(ABC):
    """A way to caption images that records the cores used by its processes."""

    def __init__(self, rest: str, here: str = "") -> None:
        """Name kinds of processes.

        Args:
            rest, here: Arguments of CoreWatch.
        """
        self._names = rest, here
        self._measured: list[tuple[CoreWatch, Report]] = []

    def measure(self) -> Report:
        """Caption the images of one measurement."""
        with CoreWatch(PROCESSES, *self._names) as watch:
            report = self._report()
        self._measured.append((watch, report))
        return report

    def cores(self) -> list[Mapping[str, float]]:
        """Cores in use between the first and the last captions, for each measurement."""
        found = []
        for watch, report in self._measured:
            ends = sorted(report.done_at)
            found.append(watch.cores(ends[SEQUENCES - 1], ends[-SEQUENCES]))
        return found

    @abstractmethod
    def _report(self) -> Report: ...


class Pass(MeasuredWay):
    """`caption.py` on tar shards with its own Ray. It starts once, and its processes are stopped
    between measurements.

    Reports are filled when it is closed, because only then all rows exist.
    """

    def __init__(
        self, checkpoint: Path, images: Sequence[bytes], counted: int, folder: Path
    ) -> None:
        """Start the pass and stop it after its first unit.

        Args:
            counted: Images per measurement.
        """
        super().__init__("rest of Ray")
        for first in range(0, len(images), SHARD):
            members = {
                f"{n:04d}.jpg": image for n, image in enumerate(images[first : first + SHARD])
            }
            write_tar(folder / "shards" / f"{first:04d}.tar", members)
        self._output, self._slices = folder / "out", Slices(counted)
        self._process = start("caption.py", *_build_flags(checkpoint, folder), cwd=folder)
        self._family = Family(self._process)
        wait_for_units(self._output, 1, self._process, LIMIT_S)
        self._family.stop()

    def close(self) -> None:
        """Let the pass run to its end, and fill the reports."""
        self._family.resume()
        _, complaints = self._process.communicate()
        assert self._process.returncode == 0, complaints[-3000:]
        self._slices.fill(
            (row["created_at"].timestamp(), row["prompt_tokens"], row["output_tokens"])
            for row in check_rows(self._output)
        )

    def _report(self) -> Report:
        _, report = self._slices.begin()
        self._family.resume()
        # One unit more, because some images of the first one were done before.
        units = len(list((self._output / "captions").iterdir())) + self._slices.counted // UNIT + 1
        wait_for_units(self._output, units, self._process, LIMIT_S)
        self._family.stop()
        return report


def _build_flags(checkpoint: Path, folder: Path) -> list[str]:
    return [
        *("--engine", "vllm", "--model", str(checkpoint)),
        *("--input", str(folder / "shards"), "--output", str(folder / "out")),
        *("--unit-size", str(UNIT), "--settings.max-num-seqs", str(SEQUENCES)),
        *("--settings.max-num-batched-tokens", str(STEP_TOKENS)),
        *("--settings.kv-cache-gib", str(KV_CACHE_GIB), "--gate.no-enabled"),
        *("--settings.silence-limit-s", str(LONGEST_STOP_S)),
        *("--sampling.max-tokens", str(TOKENS), "--sampling.no-stop-at-loops"),
        # Without these flags the recipe samples, as the paper did.
        *("--sampling.temperature", "0", "--sampling.top-p", "1"),
    ]
