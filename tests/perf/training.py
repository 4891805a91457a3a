"""Training: overhead of the loop under Ray Train over a bare loop, waiting for data, padding.

python -m tests.perf.training

The loop is `finetune.py` with one worker of Ray Train; it shards, reads and decodes ahead, records
every step and reports to the driver. The bare loop is plain PyTorch in one process, with the same
forward, weights, optimiser, precision, threads and tensors, all in memory before it starts. A third
loop is the bare loop with the product's sharded model and its loader, which reads ahead; it shows
which part of the overhead is theirs, and which is that of Ray and the records. All losses must
agree, step by step. A step lasts from the end of the one before to its own end, so that nothing is
left out between steps. No checkpoints are written.
All three start once, and during the turn of one the processes of the others are stopped (SIGSTOP).
Turns are short, because within half a minute these machines change by more than the loops differ.
Only steps in which no loop was stopped count, and only after the first stop of each.
Read bare/loop: the share of a step that is left for the model; in brackets are the least and the
greatest median of a fifth of the steps. Goal: 0.97 for the median step. The sums of steps also
include what happens only now and then. Waiting for data is the share of a step in which there was
nothing to compute. Goal: at most 1 %.
Padding is the share of all computed places, for 20,000 drawn lengths and the paper's batches. The
peak of the loss head is the increase of resident memory in new processes; the chunked and the plain
version must agree in loss and gradients to about 1e-6.
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
from tests.perf.measuring import Goal, format_spread, record
from tests.perf.padding import compute_dealt_padding, compute_drawn_padding, draw_lengths
from tests.perf.stopping import Family

ROUNDS, TURN_S = 12, 8.0
"""Rounds, and seconds of each turn, which is longer than a step on any machine."""
STEPS = 160
"""More steps than a loop reaches on any machine."""
FIFTHS = 5
BATCH = 8
"""Samples that the paper's finetuning gives a GPU at once."""
DIFFERENT = 120
SIZE = (640, 480)
LOSS_DIFFERENCE = 1e-4
"""Largest allowed relative difference of the losses of a step, which proves equal work."""
LIMIT_S = 300
"""Time limit for the start of a training."""
POLL_S = 0.2
SAMPLES, WORKERS = 20_000, (16, 4)
"""Samples and numbers of workers for the padding; the paper's finetuning had 16 workers."""
HEAD = Sizes(rows=4, tokens=2048, width=512, vocabulary=32_000)
LABELLED = (0.25, 1.0)
"""Shares of labelled places: as in training on captions, and the worst case."""
HEAD_DIFFERENCE = 1e-5
LOOP = "loop"

T = TypeVar("T")
Rows = list[tuple[str, str, str]]


@dataclass(frozen=True, slots=True)
class Step:
    """A training step.

    Attributes:
        seconds: Its duration.
        loss: Its loss.
        waited_s: The part of `seconds` spent waiting for data.
    """

    seconds: float
    loss: float
    waited_s: float = 0.0


class Training:
    """A training that starts once, and whose processes are stopped during the turns of others."""

    def __init__(
        self, process: subprocess.Popen[str], read: Callable[[], Sequence[Step]], first: int = 1
    ) -> None:
        """Wait for the first steps, then stop the training.

        Args:
            read: Returns the steps recorded so far.
            first: Number of steps before the first stop.
        """
        self._process, self._family, self.steps = process, Family(process), read
        deadline = time.monotonic() + LIMIT_S
        while len(read()) < first:
            assert process.poll() is None, process.communicate()[1][-3000:]
            assert time.monotonic() < deadline
            time.sleep(POLL_S)
        self._family.stop()

    def turn(self) -> None:
        self._family.resume()
        time.sleep(TURN_S)
        assert self._process.poll() is None, "the training ended: it needs more steps"
        self._family.stop()

    def close(self) -> None:
        """End the training as by Ctrl-C, so that it records all its steps."""
        self._family.resume()
        self._process.send_signal(signal.SIGINT)
        self._process.communicate()


def _start_loop(flags: Sequence[str], folder: Path) -> Training:
    """Start `finetune.py`."""
    output = str(folder / LOOP)
    flags = [*flags, "--output", output]
    process = scripts.start("finetune.py", *flags, cwd=folder, OMP_NUM_THREADS=str(THREADS))

    def read() -> list[Step]:
        return [Step(m.step_s, m.loss, m.data_wait_s) for m in read_metrics(output)]

    return Training(process, read)


def _start_bare(name: str, flags: Sequence[str], folder: Path, first: int) -> Training:
    """Start the bare loop, or, for FED, the bare loop with sharding and loader."""
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


def _run_in_new_process(function: Callable[..., T], *arguments: Any) -> T:
    """Call a function in a new process, forked from one that has only imported modules, so that no
    memory, threads or caches of earlier measurements are left."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([measure.__module__])
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(function, *arguments).result()


def main() -> None:
    """Run the benchmark, for about eight minutes on two cores."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        flags = _build_flags(_write_lessons(folder / "lessons"), build_trainable(folder / "start"))
        steps = _measure_in_turns(flags, folder)
    pace, rows = _summarise_steps(steps)
    padding, padding_rows = _measure_padding()
    head, head_rows = _measure_head()
    lines = [f"| {' | '.join(row)} |" for row in (*rows, *padding_rows, *head_rows)]
    table = "\n".join(("| measured | result | goal |", "|---|---|---|", *lines))
    record("training", {"pace": pace, "padding": padding, "head": head}, table)


def _measure_in_turns(flags: Sequence[str], folder: Path) -> dict[str, Sequence[Step]]:
    """Measure all ways in turn, every second round backwards, so that drift hits all alike."""
    with ExitStack() as stack:
        ways = {LOOP: stack.enter_context(closing(_start_loop(flags, folder)))}
        # All start their turns at about the same step, so that each step is measured in turns.
        first = len(ways[LOOP].steps())
        for name in (FED, BARE):
            ways[name] = stack.enter_context(closing(_start_bare(name, flags, folder, first)))
        for number in range(ROUNDS):
            print(f"   round {number + 1} of {ROUNDS}", flush=True)  # noqa: T201
            for name in reversed(ways) if number % 2 else ways:
                ways[name].turn()
    return {name: way.steps() for name, way in ways.items()}


def _build_flags(lessons: Path, model: Path) -> list[str]:
    """Build flags of `finetune.py` for one epoch of all lessons and a checkpoint at its end."""
    return [
        *("demo", "--demo-scenes", "0", "--data", str(lessons / "data.json")),
        *("--images", str(lessons), "--model", str(model), "--max-tokens", "1024"),
        *("--batch-size", str(BATCH), "--device-batch-size", str(BATCH), "--workers", "1"),
        *("--saving.every-min", "1000"),
    ]


def _write_lessons(folder: Path) -> Path:
    """Write photographs with captions whose lengths vary as in ShareGPT4V."""
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


def _summarise_steps(steps: Mapping[str, Sequence[Step]]) -> tuple[Mapping[str, Any], Rows]:
    counted = _select_steps(steps)
    loop, fed, bare = ([steps[way][number] for number in counted] for way in (LOOP, FED, BARE))
    apart = max(
        largest_difference([step.loss for step in loop], [step.loss for step in other])
        for other in (fed, bare)
    )
    assert apart < LOSS_DIFFERENCE, f"they did not train the same: losses differ by {apart:.1e}"
    waits = [_compute_wait_percent(part) for part in _split_into_fifths(loop)]
    rows = [
        ("steps counted", f"{len(counted)}", ""),
        ("loop under Ray Train, s a step", _format_medians([step.seconds for step in loop]), ""),
        ("bare loop, s a step", _format_medians([step.seconds for step in bare]), ""),
        (
            "bare loop with sharding and loader, s a step",
            _format_medians([s.seconds for s in fed]),
            "",
        ),
        ("bare/loop", _format_medians(_divide_steps(bare, loop)), "0.97"),
        ("bare/with sharding and loader", _format_medians(_divide_steps(bare, fed)), ""),
        ("with sharding and loader/loop", _format_medians(_divide_steps(fed, loop)), ""),
        ("bare/loop, sums of steps", format_spread(_divide_sums(bare, loop), 3), ""),
        ("waiting for data, % of a step", format_spread(waits), "1"),
    ]
    figures: dict[str, Any] = {name: list(map(astuple, found)) for name, found in steps.items()}
    return figures | {"counted": counted, "losses_differ_by": apart}, rows


def _select_steps(steps: Mapping[str, Sequence[Step]]) -> list[int]:
    """Numbers of the steps in which no loop was stopped, after the first stop of each."""
    shortest = min(map(len, steps.values()))
    stopped = [
        {number for number, step in enumerate(found[1:], 1) if step.seconds > TURN_S}
        for found in steps.values()
    ]
    first = max(map(min, stopped))
    return [n for n in range(first + 1, shortest) if not any(n in ones for ones in stopped)]


def _divide_steps(ones: Sequence[Step], others: Sequence[Step]) -> list[float]:
    """Ratios of the seconds, step by step."""
    return [one.seconds / other.seconds for one, other in zip(ones, others, strict=True)]


def _divide_sums(ones: Sequence[Step], others: Sequence[Step]) -> list[float]:
    """Ratios of the total seconds of each fifth."""
    sums = [
        [sum(step.seconds for step in part) for part in _split_into_fifths(way)]
        for way in (ones, others)
    ]
    return [one / other for one, other in zip(*sums, strict=True)]


def _format_medians(values: Sequence[float]) -> str:
    """Format the median, and the least and the greatest median of a fifth."""
    parts = [statistics.median(part) for part in _split_into_fifths(values)]
    return f"{statistics.median(values):.3f} ({min(parts):.3f}-{max(parts):.3f})"


def _split_into_fifths(values: Sequence[T]) -> list[Sequence[T]]:
    """Split values into five parts, in order."""
    ends = [len(values) * number // FIFTHS for number in range(FIFTHS + 1)]
    return [values[start:end] for start, end in itertools.pairwise(ends)]


def _compute_wait_percent(steps: Sequence[Step]) -> float:
    return 100 * sum(step.waited_s for step in steps) / sum(step.seconds for step in steps)


def _measure_padding() -> tuple[Mapping[str, Any], Rows]:
    lengths, has_image = draw_lengths(SAMPLES)
    ways = {"one a row, as drawn": compute_drawn_padding}
    for workers in WORKERS:
        ways[f"dealt to {workers} workers and packed"] = partial(
            compute_dealt_padding, workers=workers
        )
    figures, rows = {}, []
    for about, share in ways.items():
        kinds = {"grouped": True, "random": False}
        found = {name: share(lengths, has_image, grouped) for name, grouped in kinds.items()}
        figures[about] = found
        cell = ", ".join(f"{name} {value:.1%}" for name, value in found.items())
        rows.append((f"padding, {about}", cell, ""))
    return figures, rows


def _measure_head() -> tuple[Mapping[str, Any], Rows]:
    figures, rows = {}, []
    for labelled in LABELLED:
        mine = _run_in_new_process(measure, "chunked", labelled, HEAD)
        plain = _run_in_new_process(measure, "plain", labelled, HEAD)
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
    kept = statistics.median(_divide_steps(bare, loop))
    return [
        Goal("training step of a bare loop over that under Ray Train", kept, 0.97),
        Goal("waiting for data, % of a training step", _compute_wait_percent(loop), 1.0, False),
    ]


if __name__ == "__main__":
    main()
