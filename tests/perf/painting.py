"""Drawing against a bare loop over the same pipeline: images per second of each.

python -m tests.perf.painting

Both ways draw the same prompts with the same seeds, in batches of the same size, with the same
weights, steps and threads, by turns in one process. The bare loop calls the pipeline of diffusers
and keeps its pictures in memory; our stage goes through engine, supervision and task, checks each
picture, and writes PNGs and rows as the flow does. Pictures must be the same bit by bit.

Read the share: our rate over that of the bare loop, in each round; goal: the median at least 0.9.
"""

import asyncio
import io
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from s4v_core.engines.choice import choose_painter, start_engine
from s4v_core.engines.drawing import PaintConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.records.schemas import table_of
from s4v_core.records.unit_shards import UnitShards
from s4v_core.records.units import UnitFolder
from s4v_core.synthesis.painting import PAINTED, PaintTask, plan_prompt
from tests.perf.measuring import Goal, format_spread, measure_in_turns, ratios, record
from tests.synthesis.tiny_painter import build_tiny_painter, make_prompts

ROUNDS, IMAGES, BATCH, THREADS = 5, 16, 8, 1
PAINTING = PaintConfig(width=64, height=64, steps=10, guidance=2.0)


class Stage:
    """Our way: engine, task and commit."""

    def __init__(self, model: Path, output: Path) -> None:
        settings = EngineSettings(device="cpu", cpus=THREADS, batch_size=BATCH)
        spec = choose_painter(str(model), PAINTING, settings)
        self._output, self._rounds = output, 0
        self._task = PaintTask(spec.model, spec.revision or "")
        self._loop = asyncio.new_event_loop()
        self.engine = start_engine(spec)
        self.rows: list[dict[str, Any]] = []

    def measure(self) -> float:
        """Images per second."""
        begun = time.monotonic()
        self.rows = self._loop.run_until_complete(self._draw())
        self._commit()
        return IMAGES / (time.monotonic() - begun)

    async def _draw(self) -> list[dict[str, Any]]:
        planned = [plan_prompt(one) for one in make_prompts(IMAGES)]
        abouts = [self._task.prepare(row, None).about for row in planned]
        answers = (self._task.answer(about, (), self.engine) for about in abouts)
        return list(await asyncio.gather(*answers))

    def _commit(self) -> None:
        stamp = {"run_id": "perf", "created_at": datetime.now(UTC)}
        plain = [{k: v for k, v in row.items() if k != "files"} | stamp for row in self.rows]
        rows = table_of(plain, PAINTED.schema, "rows")
        output = str(self._output / f"{self._rounds}")
        self._rounds += 1
        rows = UnitShards(output, PAINTED).write(0, rows, [row["files"] for row in self.rows])
        UnitFolder(output, PAINTED).commit(0, "plan", "perf", rows)


class Bare:
    """The loop that one would write: a pipeline and nothing else."""

    def __init__(self, model: Path) -> None:
        self._pipeline = StableDiffusionPipeline.from_pretrained(model, use_safetensors=True)
        self._pipeline.set_progress_bar_config(disable=True)
        self.seeds: list[int] = [0] * IMAGES
        self.pictures: list[Image.Image] = []

    def measure(self) -> float:
        """Images per second."""
        begun = time.monotonic()
        self.pictures = []
        prompts = [one.prompt for one in make_prompts(IMAGES)]
        for start in range(0, IMAGES, BATCH):
            seeds = self.seeds[start : start + BATCH]
            self.pictures += self._pipeline(
                prompts[start : start + BATCH],
                width=PAINTING.width,
                height=PAINTING.height,
                num_inference_steps=PAINTING.steps,
                guidance_scale=PAINTING.guidance,
                generator=[torch.Generator("cpu").manual_seed(seed) for seed in seeds],
            ).images
        return IMAGES / (time.monotonic() - begun)


def main() -> None:
    """Measure and record."""
    torch.set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as name:
        model = build_tiny_painter(Path(name) / "model")
        stage, bare = Stage(model, Path(name)), Bare(model)
        try:
            stage.measure()  # warm
            bare.seeds = [int(row["seed"]) for row in stage.rows]
            bare.measure()
            ours, theirs = measure_in_turns(ROUNDS, stage.measure, bare.measure)
            same = _count_same(stage, bare)
        finally:
            stage.engine.close()
    _record(ours, theirs, same)


def _count_same(stage: Stage, bare: Bare) -> float:
    """Share of the pictures that are equal bit by bit."""
    pairs = zip(stage.rows, bare.pictures, strict=True)
    same = [
        np.array_equal(
            np.asarray(Image.open(io.BytesIO(row["files"][0]["content"]))), np.asarray(picture)
        )
        for row, picture in pairs
    ]
    return sum(same) / len(same)


def _record(ours: list[float], theirs: list[float], same: float) -> None:
    shares = ratios(ours, theirs)
    figures = {"stage": ours, "bare": theirs, "share": shares, "same_pictures": same}
    table = (
        f"{IMAGES} pictures of {PAINTING.width}x{PAINTING.height}, {PAINTING.steps} steps, batches "
        f"of {BATCH}, {THREADS} thread, a random Stable Diffusion, {ROUNDS} rounds\n\n"
        "| way | images/s | of the bare loop |\n|---|---|---|\n"
        f"| bare loop of diffusers | {format_spread(theirs)} | 1 |\n"
        f"| painter stage | {format_spread(ours)} | {format_spread(shares)} |\n\n"
        f"{same:.0%} of the pictures are equal bit by bit."
    )
    record("painting", figures, table)


def goals(figures: dict[str, Any]) -> list[Goal]:
    """Our rate as a share of the bare loop's."""
    return [
        Goal("painter stage, share of a bare loop", statistics.median(figures["share"]), 0.9),
        Goal("pictures of both that are equal", figures["same_pictures"], 1.0),
    ]


if __name__ == "__main__":
    main()
