"""`caption.py` with vLLM, and the terms that it shares with whatever it is measured against."""

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
"""Images of each; a unit is as large as what the engine makes at once, as it is by default."""
LIMIT_S = 600
"""For a pass to start, or to caption the images of one measurement."""
LONGEST_STOP_S = 3600
"""Of an engine that is stopped for other ways' turns, and does not hang."""
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
"""What the pass gives its engine here, as arguments of vLLM: for those who run vLLM beside it."""


@dataclass
class Report:
    """How a way went, image by image.

    Attributes:
        done_at: Seconds of some clock.
    """

    done_at: list[float] = field(default_factory=list)
    prompt_tokens: list[int] = field(default_factory=list)
    output_tokens: list[int] = field(default_factory=list)


class Slices:
    """Measurements of a way that tells only at its end when each image was done."""

    def __init__(self, counted: int) -> None:
        """Args:
        counted: Images of a measurement.
        """
        self.counted = counted
        self._begun: list[tuple[float, Report]] = []

    def begin(self) -> tuple[float, Report]:
        """Now (seconds since 1970), and the report that will be filled."""
        self._begun.append((time.time(), Report()))
        return self._begun[-1]

    def fill(self, ends: Iterable[tuple[float, int, int]]) -> None:
        """Args:
        ends: Of each image when it was done, and the tokens of its prompt and its caption.
        """
        ends = sorted(ends)
        for since, report in self._begun:
            later = [end for end in ends if end[0] > since][: self.counted]
            columns = report.done_at, report.prompt_tokens, report.output_tokens
            for column, values in zip(columns, zip(*later, strict=True), strict=True):
                column.extend(values)


class Watched(ABC):
    """A way of which is known who had the cores."""

    def __init__(self, rest: str, here: str = "") -> None:
        """Args:
        rest, here: CoreWatch's.
        """
        self._names = rest, here
        self._measured: list[tuple[CoreWatch, Report]] = []

    def measure(self) -> Report:
        """Captions so many images once more."""
        with CoreWatch(PROCESSES, *self._names) as watch:
            report = self._report()
        self._measured.append((watch, report))
        return report

    def cores(self) -> list[Mapping[str, float]]:
        """Between the first captions and the last, of each measurement."""
        found = []
        for watch, report in self._measured:
            ends = sorted(report.done_at)
            found.append(watch.cores(ends[SEQUENCES - 1], ends[-SEQUENCES]))
        return found

    @abstractmethod
    def _report(self) -> Report: ...


class Pass(Watched):
    """`caption.py` on tar shards, with a Ray of its own, which starts once; between measurements
    all its processes are stopped.

    Reports are filled when it is closed, for only then all rows are there.
    """

    def __init__(
        self, checkpoint: Path, images: Sequence[bytes], counted: int, folder: Path
    ) -> None:
        """Args:
        counted: Images of a measurement.
        """
        super().__init__("rest of Ray")
        for first in range(0, len(images), SHARD):
            members = {
                f"{n:04d}.jpg": image for n, image in enumerate(images[first : first + SHARD])
            }
            write_tar(folder / "shards" / f"{first:04d}.tar", members)
        self._output, self._slices = folder / "out", Slices(counted)
        self._process = start("caption.py", *_flags(checkpoint, folder), cwd=folder)
        self._family = Family(self._process)
        wait_for_units(self._output, 1, self._process, LIMIT_S)
        self._family.stop()

    def close(self) -> None:
        """Lets it come to its end."""
        self._family.go_on()
        _, complaints = self._process.communicate()
        assert self._process.returncode == 0, complaints[-3000:]
        self._slices.fill(
            (row["created_at"].timestamp(), row["prompt_tokens"], row["output_tokens"])
            for row in check_rows(self._output)
        )

    def _report(self) -> Report:
        _, report = self._slices.begin()
        self._family.go_on()
        # One unit more: of the first one some images were done before.
        units = len(list((self._output / "captions").iterdir())) + self._slices.counted // UNIT + 1
        wait_for_units(self._output, units, self._process, LIMIT_S)
        self._family.stop()
        return report


def _flags(checkpoint: Path, folder: Path) -> list[str]:
    return [
        *("--engine", "vllm", "--model", str(checkpoint)),
        *("--input", str(folder / "shards"), "--output", str(folder / "out")),
        *("--unit-size", str(UNIT), "--settings.max-num-seqs", str(SEQUENCES)),
        *("--settings.max-num-batched-tokens", str(STEP_TOKENS)),
        *("--settings.kv-cache-gib", str(KV_CACHE_GIB), "--gate.no-enabled"),
        *("--settings.silence-limit-s", str(LONGEST_STOP_S)),
        *("--sampling.max-tokens", str(TOKENS), "--sampling.no-stop-at-loops"),
        # The recipe's are the paper's, which draws.
        *("--sampling.temperature", "0", "--sampling.top-p", "1"),
    ]
