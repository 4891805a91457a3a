"""`caption.py` with vLLM, and the terms that it shares with whatever it is measured against."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.conftest import write_tar
from tests.flow.oracle import check_rows
from tests.flow.scripts import start
from tests.perf.measuring import CoreWatch
from tests.perf.passes import PROCESSES

SHARD, UNIT = 16, 16
"""Images of each; a unit is as large as what the engine makes at once, as it is by default."""
TOKENS, SEQUENCES, STEP_TOKENS, KV_CACHE_GIB = 64, 16, 8192, 2
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


class Watched(ABC):
    """A way of which is known who had the cores.

    Attributes:
        cores: Between the first captions and the last, of each measurement.
    """

    def __init__(self, rest: str, here: str = "") -> None:
        """Args:
        rest, here: CoreWatch's.
        """
        self._names = rest, here
        self.cores: list[Mapping[str, float]] = []

    def measure(self, address: str) -> Report:
        """Captions all images once.

        Args:
            address: Of a Ray for those who need one.
        """
        with CoreWatch(PROCESSES, *self._names) as watch:
            report = self._report(address)
        ends = sorted(report.done_at)
        self.cores.append(watch.cores(ends[SEQUENCES - 1], ends[-SEQUENCES]))
        return report

    @abstractmethod
    def _report(self, address: str) -> Report: ...


class Pass(Watched):
    """`caption.py` on tar shards, a new output each time."""

    def __init__(self, checkpoint: Path, images: Sequence[bytes], folder: Path) -> None:
        super().__init__("rest of Ray")
        for first in range(0, len(images), SHARD):
            members = {
                f"{n:04d}.jpg": image for n, image in enumerate(images[first : first + SHARD])
            }
            write_tar(folder / "shards" / f"{first:04d}.tar", members)
        self._folder, self._outputs = folder, itertools.count()
        self._flags = [
            *("--engine", "vllm", "--model", str(checkpoint)),
            *("--input", str(folder / "shards")),
            *("--unit-size", str(UNIT), "--settings.max-num-seqs", str(SEQUENCES)),
            *("--settings.max-num-batched-tokens", str(STEP_TOKENS)),
            *("--settings.kv-cache-gib", str(KV_CACHE_GIB), "--gate.no-enabled"),
            *("--sampling.max-tokens", str(TOKENS), "--sampling.no-stop-at-loops"),
            # The recipe's are the paper's, which draws.
            *("--sampling.temperature", "0", "--sampling.top-p", "1"),
        ]

    def _report(self, address: str) -> Report:
        output = self._folder / f"out-{next(self._outputs)}"
        flags = (*self._flags, "--output", str(output))
        process = start("caption.py", *flags, cwd=self._folder, RAY_ADDRESS=address)
        _, complaints = process.communicate()
        assert process.returncode == 0, complaints[-3000:]
        rows = check_rows(output)
        return Report(
            [row["created_at"].timestamp() for row in rows],
            [row["prompt_tokens"] for row in rows],
            [row["output_tokens"] for row in rows],
        )
