"""`caption.py` with vLLM, and the terms that it shares with whatever it is measured against."""

import itertools
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import linear_regression
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


class Pass:
    """`caption.py` on tar shards, a new output each time.

    Attributes:
        rows: Of the last measurement.
        tokens: Of all its captions.
        wall_s: From its start to its end.
        said: What it printed.
        cores: Who had them between the first captions and the last, of each measurement.
    """

    def __init__(self, checkpoint: Path, images: Sequence[bytes], folder: Path) -> None:
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
        self.rows: list[dict[str, Any]] = []
        self.tokens, self.wall_s, self.said = 0, 0.0, ""
        self.cores: list[Mapping[str, float]] = []

    def measure(self) -> float:
        """Images per second."""
        output = self._folder / f"out-{next(self._outputs)}"
        started = time.monotonic()
        with CoreWatch(PROCESSES, "rest of Ray") as watch:
            process = start("caption.py", *self._flags, "--output", str(output), cwd=self._folder)
            self.said, complaints = process.communicate()
        self.wall_s = time.monotonic() - started
        assert process.returncode == 0, complaints[-3000:]
        self.rows = check_rows(output)
        self.tokens = sum(row["output_tokens"] for row in self.rows)
        done_at = sorted(row["created_at"].timestamp() for row in self.rows)
        self.cores.append(watch.cores(done_at[SEQUENCES - 1], done_at[-SEQUENCES]))
        return steady(done_at)


def steady(done_at: Sequence[float]) -> float:
    """Images per second while the engine made as many as it can at once: the slope of the line
    through the ends, but those that it began with and those that it ended with. Captions of one
    length end many at a time; from one end to another would count the last ones' part of a batch
    as a whole one or as none."""
    inner = sorted(done_at)[SEQUENCES:-SEQUENCES]
    return linear_regression(inner, range(len(inner))).slope
