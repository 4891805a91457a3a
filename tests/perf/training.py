"""Training: what the loop under Ray Train costs over a bare one, what waits, what is padded.

python -m tests.perf.training

The loop is `finetune.py` with one worker of Ray Train; it shards, reads and decodes ahead, records
every step and tells the driver. The bare loop is plain PyTorch in one process: the same forward,
weights, optimiser, precision and threads, the same tensors, all in memory before it starts. A third
is that bare loop on the product's sharded model, with the product's loader reading ahead: what of
the loss is theirs, and what Ray's and the record's. All losses must agree, step by step. Counted is
the median step without the first three; a step is the time from end to end, so nothing lies between
steps. Checkpoints are none.
Read bare/loop: the share of a step that is left for the model. Goal: 0.97, by the best times of
each step, for what others on the machine take can only make one longer. Beside it stand the pairs'
medians and the sums of the steps, which see what happens now and then. Data wait is the share of
the step in which there was nothing to compute. Goal: at most 1 %.
Padding is the share of all computed places in 20,000 drawn lengths and the paper's batches. The
loss head's peak is resident memory above what was there before, in fresh processes; chunked and
plain must agree in loss and gradients to about 1e-6.
"""

import itertools
import json
import multiprocessing
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from s4v_core.training.metrics import read_metrics
from tests.conftest import photo
from tests.flow import scripts
from tests.perf.bare_training import train_bare
from tests.perf.heavy import build_trainable
from tests.perf.loss_memory import Sizes, largest_difference, measure
from tests.perf.measuring import Goal, by_turns, ratios, record, spread
from tests.perf.padding import dealt_share, draw_lengths, drawn_share

PAIRS, STEPS = 5, 15
BATCH = 8
"""Samples that the paper's finetuning gives a GPU at once."""
COLD_STEPS = 3
"""Not counted: memory is touched for the first time, and samples are not read ahead yet."""
THREADS = 1
"""Of torch, on both sides: what Ray gives a worker of one CPU."""
SIZE = (640, 480)
LOSS_DIFFERENCE = 1e-4
"""Largest relative one of a step, bare against loop: the same work was done."""
SAMPLES, WORKERS = 20_000, (16, 4)
"""Of the padding; the paper's finetuning had 16."""
HEAD = Sizes(rows=4, tokens=2048, width=512, vocabulary=32_000)
LABELLED = (0.25, 1.0)
"""Shares of the places: as where captions are learnt, and the worst case."""
HEAD_DIFFERENCE = 1e-5

T = TypeVar("T")
Rows = list[tuple[str, str, str]]
Steps = list[tuple[float, float]]
"""Seconds and loss of each."""


class Loop:
    """`finetune.py` in processes of its own, a new output each time.

    Attributes:
        steps: Of each measurement, as the loop recorded them.
        waits: Per cent of each measurement's counted steps that were spent waiting for data.
    """

    def __init__(self, flags: Sequence[str], folder: Path) -> None:
        self._flags, self._folder = flags, folder
        self.steps: list[Steps] = []
        self.waits: list[float] = []

    def measure(self) -> float:
        """Seconds of the median step."""
        output = self._folder / f"loop-{len(self.steps)}"
        code, _, error = scripts.run(
            *("finetune.py", *self._flags, "--output", str(output)),
            cwd=self._folder,
            OMP_NUM_THREADS=str(THREADS),
        )
        assert code == 0, error[-3000:]
        found = read_metrics(str(output))
        assert len(found) == STEPS
        self.steps.append([(step.step_s, step.loss) for step in found])
        waited, seconds = sum(m.data_wait_s for m in found[COLD_STEPS:]), _counted(self.steps[-1])
        self.waits.append(100 * waited / sum(seconds))
        return statistics.median(seconds)


class Bare:
    """The same without anything around it, or only with sharding and loader.

    Attributes:
        steps: Of each measurement.
    """

    def __init__(self, flags: Sequence[str], folder: Path, alone: bool) -> None:
        self._flags, self._folder, self._alone = flags, folder, alone
        self.steps: list[Steps] = []

    def measure(self) -> float:
        """Seconds of the median step."""
        output = self._folder / f"{'bare' if self._alone else 'fed'}-{len(self.steps)}"
        flags = [*self._flags, "--output", str(output)]
        self.steps.append(_in_new_process(train_bare, flags, THREADS, self._alone))
        return statistics.median(_counted(self.steps[-1]))


def _in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns that no earlier measurement left memory, threads or caches for: its
    process is forked from one that has only imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([train_bare.__module__, measure.__module__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Runs for about ten minutes on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = _flags(_write_lessons(folder / "lessons"), build_trainable(folder / "start"))
        ways = Loop(flags, folder), Bare(flags, folder, False), Bare(flags, folder, True)
        medians = by_turns(PAIRS, *(way.measure for way in ways))
    pace, rows = _pace(ways, medians)
    padding, padding_rows = _padding()
    head, head_rows = _head()
    lines = [f"| {' | '.join(row)} |" for row in (*rows, *padding_rows, *head_rows)]
    table = "\n".join(("| measured | result | goal |", "|---|---|---|", *lines))
    record("training", {"pace": pace, "padding": padding, "head": head}, table)


def _flags(lessons: Path, model: Path) -> list[str]:
    """Of `finetune.py`: an epoch of all lessons, a checkpoint at its end alone."""
    return [
        *("demo", "--demo-scenes", "0", "--data", str(lessons / "data.json")),
        *("--images", str(lessons), "--model", str(model), "--max-tokens", "1024"),
        *("--batch-size", str(BATCH), "--device-batch-size", str(BATCH), "--workers", "1"),
        *("--saving.every-min", "1000"),
    ]


def _write_lessons(folder: Path) -> Path:
    """Photographs with captions that differ in length as ShareGPT4V's do."""
    folder.mkdir()
    counts = np.random.default_rng(0).normal(190, 60, STEPS * BATCH).clip(20, 400).astype(int)
    words = ("a", "large", "red", "circle", "in", "the", "upper", "left", "corner")
    records = []
    for number, count in enumerate(counts):
        (folder / f"{number}.jpg").write_bytes(photo(number, SIZE))
        turns = [
            {"from": "human", "value": "<image>\nWhat do you see?"},
            {"from": "gpt", "value": " ".join(itertools.islice(itertools.cycle(words), count))},
        ]
        records.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def _pace(
    ways: tuple[Loop, Bare, Bare], medians: Sequence[Sequence[float]]
) -> tuple[Mapping[str, Any], Rows]:
    (loop, fed, bare), (loop_s, fed_s, bare_s) = ways, medians
    apart = max(
        largest_difference([loss for _, loss in one], [loss for _, loss in other])
        for way in (fed, bare)
        for one, other in zip(loop.steps, way.steps, strict=True)
    )
    assert apart < LOSS_DIFFERENCE, f"they did not train the same: losses differ by {apart:.1e}"
    mine, theirs = (list(map(_counted, way.steps)) for way in (loop, bare))
    whole = ratios([sum(run) for run in theirs], [sum(run) for run in mine])
    rows = [
        ("loop under Ray Train, s a step", spread(loop_s, 3), ""),
        ("bare loop, s a step", spread(bare_s, 3), ""),
        ("bare loop with sharding and loader, s a step", spread(fed_s, 3), ""),
        ("bare/loop", spread(ratios(bare_s, loop_s), 3), ""),
        ("bare/with sharding and loader", spread(ratios(bare_s, fed_s), 3), ""),
        ("with sharding and loader/loop", spread(ratios(fed_s, loop_s), 3), ""),
        ("bare/loop, all steps together", spread(whole, 3), ""),
        ("bare/loop, the best of each step", f"{_best(theirs) / _best(mine):.3f}", "0.97"),
        ("waiting for data, % of a step", spread(loop.waits), "1"),
    ]
    steps = {"loop": loop.steps, "fed": fed.steps, "bare": bare.steps}
    return steps | {"waits": loop.waits, "losses_differ_by": apart}, rows


def _counted(steps: Steps) -> list[float]:
    """Seconds of a run's steps, without the cold ones."""
    return [seconds for seconds, _ in steps[COLD_STEPS:]]


def _best(runs: Sequence[Sequence[float]]) -> float:
    """Seconds of all steps, each as in the run that was quickest with it."""
    return sum(map(min, zip(*runs, strict=True)))


def _padding() -> tuple[Mapping[str, Any], Rows]:
    lengths, has_image = draw_lengths(SAMPLES)
    ways = {"one a row, as drawn": drawn_share}
    for workers in WORKERS:
        ways[f"dealt to {workers} workers and packed"] = partial(dealt_share, workers=workers)
    figures, rows = {}, []
    for about, share in ways.items():
        kinds = {"grouped": True, "random": False}
        found = {name: share(lengths, has_image, grouped) for name, grouped in kinds.items()}
        figures[about] = found
        cell = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        rows.append((f"padding, {about}", cell, ""))
    return figures, rows


def _head() -> tuple[Mapping[str, Any], Rows]:
    figures, rows = {}, []
    for labelled in LABELLED:
        mine = _in_new_process(measure, "chunked", labelled, HEAD)
        plain = _in_new_process(measure, "plain", labelled, HEAD)
        loss = largest_difference(mine.loss, plain.loss)
        gradient = max(map(largest_difference, mine.gradients, plain.gradients))
        assert max(loss, gradient) < HEAD_DIFFERENCE, (loss, gradient)
        peaks = {"chunked_mib": mine.peak_mib, "plain_mib": plain.peak_mib}
        figures[f"{labelled}"] = peaks | {"loss_differs_by": loss, "gradient_differs_by": gradient}
        about = f"loss head, {labelled:.0%} labelled"
        peak = f"chunked {mine.peak_mib:.0f}, plain {plain.peak_mib:.0f}"
        rows.append((f"{about}, MiB at its peak", peak, ""))
        apart = f"loss {loss:.0e}, gradient {gradient:.0e}"
        rows.append((f"{about}, relative difference", apart, "about 1e-6"))
    return figures, rows


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    pace = figures["pace"]
    bare, loop = (_best(list(map(_counted, pace[way]))) for way in ("bare", "loop"))
    waiting = statistics.median(pace["waits"])
    return [
        Goal("training step of a bare loop over that under Ray Train", bare / loop, 0.97),
        Goal("waiting for data, % of a training step", waiting, 1.0, False),
    ]


if __name__ == "__main__":
    main()
