"""Training: what the loop under Ray Train costs over a bare one, what waits, what is padded.

python -m tests.perf.training

The loop is `finetune.py` with one worker of Ray Train; it shards, reads and decodes ahead, records
every step and tells the driver. The bare loop is plain PyTorch in one process: the same forward,
weights, optimiser, precision and threads, the same tensors, all in memory before it starts. A third
is that bare loop on the product's sharded model, with the product's loader reading ahead: what of
the loss is theirs, and what Ray's and the record's. All losses must agree, step by step. A step is
the time from end to end, so nothing lies between steps. Checkpoints are none.
All three start once, and while it is one's turn the processes of the others are stopped (SIGSTOP):
turns are short, for these machines change by more in half a minute than a loop takes. Counted are
the steps that no way was stopped in, behind the first stop of each.
Read bare/loop: the share of a step that is left for the model; in brackets are the least and the
greatest fifth of the steps. Goal: 0.97, by the step in the middle. The sums of steps beside it see
what happens now and then. Data wait is the share of the step in which there was nothing to compute.
Goal: at most 1 %.
Padding is the share of all computed places in 20,000 drawn lengths and the paper's batches. The
loss head's peak is resident memory above what was there before, in fresh processes; chunked and
plain must agree in loss and gradients to about 1e-6.
"""

import itertools
import json
import multiprocessing
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import astuple, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from s4v_core.training.worker.step_metrics import read_metrics
from tests.conftest import photo
from tests.flow import scripts
from tests.perf.bare_training import BARE, FED, THREADS
from tests.perf.heavy import build_trainable
from tests.perf.loss_memory import Sizes, largest_difference, measure
from tests.perf.measuring import Goal, record, spread
from tests.perf.padding import dealt_share, draw_lengths, drawn_share
from tests.perf.stopping import Family

ROUNDS, TURN_S = 12, 8.0
"""Of each way; a step takes less than a turn on any machine."""
STEPS = 160
"""More than anybody comes to."""
FIFTHS = 5
BATCH = 8
"""Samples that the paper's finetuning gives a GPU at once."""
DIFFERENT = 120
SIZE = (640, 480)
LOSS_DIFFERENCE = 1e-4
"""Largest relative one of a step, bare against loop: the same work was done."""
LIMIT_S = 300
"""For a training to start."""
POLL_S = 0.2
SAMPLES, WORKERS = 20_000, (16, 4)
"""Of the padding; the paper's finetuning had 16."""
HEAD = Sizes(rows=4, tokens=2048, width=512, vocabulary=32_000)
LABELLED = (0.25, 1.0)
"""Shares of the places: as where captions are learnt, and the worst case."""
HEAD_DIFFERENCE = 1e-5
LOOP = "loop"

T = TypeVar("T")
Rows = list[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Step:
    """Attributes:
    waited_s: Of `seconds`, without anything to compute.
    """

    seconds: float
    loss: float
    waited_s: float = 0.0


class Training:
    """One that starts once, and whose processes are stopped while it is others' turn."""

    def __init__(
        self, process: subprocess.Popen[str], read: Callable[[], Sequence[Step]], first: int = 1
    ) -> None:
        """Args:
        read: What it has told of its steps so far.
        first: Steps before it is stopped for the first time.
        """
        self._process, self._family, self.steps = process, Family(process), read
        deadline = time.monotonic() + LIMIT_S
        while len(read()) < first:
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
        self._family.stop()

    def turn(self) -> None:
        self._family.go_on()
        time.sleep(TURN_S)
        assert self._process.poll() is None, "it has come to its end: more steps are needed"
        self._family.stop()

    def close(self) -> None:
        """As by Ctrl-C: then all steps are told."""
        self._family.go_on()
        self._process.send_signal(signal.SIGINT)
        self._process.communicate()


def _start_loop(flags: Sequence[str], folder: Path) -> Training:
    """`finetune.py`."""
    output = str(folder / LOOP)
    flags = [*flags, "--output", output]
    process = scripts.start("finetune.py", *flags, cwd=folder, OMP_NUM_THREADS=str(THREADS))

    def read() -> list[Step]:
        return [Step(m.step_s, m.loss, m.data_wait_s) for m in read_metrics(output)]

    return Training(process, read)


def _start_bare(name: str, flags: Sequence[str], folder: Path, first: int) -> Training:
    """The same without anything around it, or (FED) only with sharding and loader."""
    steps, log = folder / f"{name}.jsonl", folder / f"{name}.log"
    module = ("-m", "tests.perf.bare_training", str(steps), name)
    with log.open("w") as sink:
        process = subprocess.Popen(
            [sys.executable, *module, *flags, "--output", str(folder / name)],
            cwd=scripts.ROOT,
            stdout=sink,
            stderr=subprocess.PIPE,
            text=True,
        )

    def read() -> list[Step]:
        lines = steps.read_text().split("\n")[:-1] if steps.exists() else []
        return [Step(*json.loads(line)) for line in lines]

    return Training(process, read, first)


def _in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """What a function returns that no earlier measurement left memory, threads or caches for: its
    process is forked from one that has only imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([measure.__module__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Runs for about eight minutes on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = _flags(_write_lessons(folder / "lessons"), build_trainable(folder / "start"))
        steps = _by_turns(flags, folder)
    pace, rows = _pace(steps)
    padding, padding_rows = _padding()
    head, head_rows = _head()
    lines = [f"| {' | '.join(row)} |" for row in (*rows, *padding_rows, *head_rows)]
    table = "\n".join(("| measured | result | goal |", "|---|---|---|", *lines))
    record("training", {"pace": pace, "padding": padding, "head": head}, table)


def _by_turns(flags: Sequence[str], folder: Path) -> dict[str, Sequence[Step]]:
    """Every second round is backwards: a machine that slows down in a round does so to others."""
    with ExitStack() as stack:
        ways = {LOOP: stack.enter_context(closing(_start_loop(flags, folder)))}
        # All go on from about the same step, so that each is taken by turns.
        first = len(ways[LOOP].steps())
        for name in (FED, BARE):
            ways[name] = stack.enter_context(closing(_start_bare(name, flags, folder, first)))
        for number in range(ROUNDS):
            print(f"   round {number + 1} of {ROUNDS}", flush=True)  # noqa: T201
            for name in reversed(ways) if number % 2 else ways:
                ways[name].turn()
    return {name: way.steps() for name, way in ways.items()}


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
    pictures = [photo(seed, SIZE) for seed in range(DIFFERENT)]
    counts = np.random.default_rng(0).normal(190, 60, STEPS * BATCH).clip(20, 400).astype(int)
    words = ("a", "large", "red", "circle", "in", "the", "upper", "left", "corner")
    records = []
    for number, count in enumerate(counts):
        (folder / f"{number}.jpg").write_bytes(pictures[number % DIFFERENT])
        turns = [
            {"from": "human", "value": "<image>\nWhat do you see?"},
            {"from": "gpt", "value": " ".join(itertools.islice(itertools.cycle(words), count))},
        ]
        records.append({"id": str(number), "image": f"{number}.jpg", "conversations": turns})
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def _pace(steps: Mapping[str, Sequence[Step]]) -> tuple[Mapping[str, Any], Rows]:
    counted = _counted(steps)
    loop, fed, bare = ([steps[way][number] for number in counted] for way in (LOOP, FED, BARE))
    apart = max(
        largest_difference([step.loss for step in loop], [step.loss for step in other])
        for other in (fed, bare)
    )
    assert apart < LOSS_DIFFERENCE, f"they did not train the same: losses differ by {apart:.1e}"
    waits = [_waited_percent(part) for part in _fifths(loop)]
    rows = [
        ("steps counted", f"{len(counted)}", ""),
        ("loop under Ray Train, s a step", _middles([step.seconds for step in loop]), ""),
        ("bare loop, s a step", _middles([step.seconds for step in bare]), ""),
        ("bare loop with sharding and loader, s a step", _middles([s.seconds for s in fed]), ""),
        ("bare/loop", _middles(_quotients(bare, loop)), "0.97"),
        ("bare/with sharding and loader", _middles(_quotients(bare, fed)), ""),
        ("with sharding and loader/loop", _middles(_quotients(fed, loop)), ""),
        ("bare/loop, sums of steps", spread(_of_sums(bare, loop), 3), ""),
        ("waiting for data, % of a step", spread(waits), "1"),
    ]
    figures: dict[str, Any] = {name: list(map(astuple, found)) for name, found in steps.items()}
    return figures | {"counted": counted, "losses_differ_by": apart}, rows


def _counted(steps: Mapping[str, Sequence[Step]]) -> list[int]:
    """Numbers of the steps that no way was stopped in, behind the first stop of each."""
    shortest = min(map(len, steps.values()))
    stopped = [
        {number for number, step in enumerate(found[1:], 1) if step.seconds > TURN_S}
        for found in steps.values()
    ]
    first = max(map(min, stopped))
    return [n for n in range(first + 1, shortest) if not any(n in ones for ones in stopped)]


def _quotients(ones: Sequence[Step], others: Sequence[Step]) -> list[float]:
    """Of the seconds, step by step."""
    return [one.seconds / other.seconds for one, other in zip(ones, others, strict=True)]


def _of_sums(ones: Sequence[Step], others: Sequence[Step]) -> list[float]:
    """Of the seconds of each fifth."""
    sums = [[sum(step.seconds for step in part) for part in _fifths(way)] for way in (ones, others)]
    return [one / other for one, other in zip(*sums, strict=True)]


def _middles(values: Sequence[float]) -> str:
    """The one in the middle, and the least and the greatest fifth by theirs."""
    parts = [statistics.median(part) for part in _fifths(values)]
    return f"{statistics.median(values):.3f} ({min(parts):.3f}-{max(parts):.3f})"


def _fifths(values: Sequence[T]) -> list[Sequence[T]]:
    """In their order."""
    ends = [len(values) * number // FIFTHS for number in range(FIFTHS + 1)]
    return [values[start:end] for start, end in itertools.pairwise(ends)]


def _waited_percent(steps: Sequence[Step]) -> float:
    return 100 * sum(step.waited_s for step in steps) / sum(step.seconds for step in steps)


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
    bare, loop = ([Step(*pace[way][number]) for number in pace["counted"]] for way in (BARE, LOOP))
    kept = statistics.median(_quotients(bare, loop))
    return [
        Goal("training step of a bare loop over that under Ray Train", kept, 0.97),
        Goal("waiting for data, % of a training step", _waited_percent(loop), 1.0, False),
    ]


if __name__ == "__main__":
    main()
