"""Our pass against the bare engine and what people use: images per second of each.

python -m tests.perf.against_others

Same checkpoint, photographs, prompt, greedy choice, most tokens of a caption, and cores; vLLM with
the same settings wherever it runs. The bare engine is vLLM's AsyncLLM with all requests handed over
at once and its pictures decoded before; our pass reads tar shards, decodes, frames and commits. The
other ways (tests/perf/others.py) are public interfaces: the original's static batches of four with
transformers, with its three beams and greedy; `vllm run-batch`; ray.data.llm's engine stage fed
with prompt and image; Ray's example of captioning with a vision model. They write no shards, gate
nothing and cannot resume.

Counted is from the middle of the ends of the first images that are in work at once (16, or a batch
of four) to the middle of the last ones' ends: no start is in it. That is to the others' favour:
ray.data.llm prepares all these few images while its engine starts. Of its rows and of ours the time
is taken when the engine is done with them, not when they come out. `vllm run-batch` may not tell
any more when its last ones are done, so it gets 16 more, which are not counted. The whole command,
start included, stands beside it, and so do the tokens that a caption got.
Read the factor: our rate over theirs, of each round. Beside the bare engine it is what the pass
keeps of vLLM's rate on cores that both share; goal: 0.95. Beside every other way: above 1. Below
stands who had the cores meanwhile.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from tests.conftest import photo
from tests.flow.scripts import ROOT
from tests.perf.bare_engine import Bare
from tests.perf.heavy import build_heavy
from tests.perf.measuring import average, ratios, record, shares, spread
from tests.perf.others import BATCH
from tests.perf.vllm_pass import SEQUENCES, Pass, Report, Watched

ROUNDS = 5
BLOCKS = 6 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4
"""So many that vLLM takes at least 0.3 s for a caption: fewer would not set the pace."""
SIZE = (640, 480)
LIMIT_S = 900
OURS, BARE = "caption.py", "bare"


@dataclass(frozen=True, slots=True)
class Way:
    """Attributes:
    images: Of a measurement.
    at_once: How many of them are in work at the same time.
    uncounted: Of the last ones.
    """

    title: str
    images: int = 48
    at_once: int = SEQUENCES
    uncounted: int = 0

    def images_per_s(self, report: Report) -> float:
        assert len(report.done_at) == len(report.output_tokens) == self.images, self
        ends = sorted(report.done_at)[: self.images - self.uncounted]
        last, first = ends[-self.at_once :], ends[: self.at_once]
        return (len(ends) - self.at_once) / (statistics.fmean(last) - statistics.fmean(first))


WAYS = {
    OURS: Way("`caption.py`", 64),
    BARE: Way("the bare engine", 64),
    # A static batch is like every other one, so few will do.
    "beams": Way("transformers, batches of 4, 3 beams", 12, BATCH),
    "greedy": Way("transformers, batches of 4, greedy", 12, BATCH),
    "run_batch": Way("`vllm run-batch`", 64, uncounted=16),
    "engine_stage": Way("ray.data.llm, engine stage alone"),
    "vision_example": Way("Ray's vision example"),
}


def theirs(way: str, checkpoint: Path, images: Path, folder: Path) -> Report:
    with tempfile.TemporaryDirectory() as name:  # short: Ray has its sockets in it
        report, log = Path(name) / "report.json", folder / f"{way}.log"
        command = [sys.executable, "-m", "tests.perf.others", way, str(checkpoint), str(images)]
        variables = {"PYTHONPATH": str(ROOT), "VLLM_NO_USAGE_STATS": "1"}
        with log.open("w") as sink:
            done = subprocess.run(
                [*command, str(report)],
                cwd=ROOT,
                env=os.environ | variables,
                stdout=sink,
                stderr=sink,
                timeout=LIMIT_S,
                check=False,
            )
        assert done.returncode == 0, f"{way}:\n{log.read_text()[-3000:]}"
        return Report(**json.loads(report.read_text()))


def main() -> None:
    """Runs for 44 minutes on two slow cores (AMD EPYC); most of it are starts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "checkpoint", BLOCKS)
        images = [photo(seed, SIZE) for seed in range(max(way.images for way in WAYS.values()))]
        for way in WAYS.values():
            _write(folder / f"images-{way.images}", images[: way.images])
        whole = Pass(checkpoint, images[: WAYS[OURS].images], folder)
        bare = Bare(checkpoint, images[: WAYS[BARE].images])
        measures: dict[str, Callable[[], Report]] = {OURS: whole.measure, BARE: bare.measure}
        for key in WAYS.keys() - measures.keys():
            shown = folder / f"images-{WAYS[key].images}"
            measures[key] = partial(theirs, key, checkpoint, shown, folder)
        try:
            found = _by_turns(measures)
        finally:
            bare.close()
    _record(found, {OURS: whole, BARE: bare})


def _write(folder: Path, images: Sequence[bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        (folder / f"{number:04d}.jpg").write_bytes(image)


def _by_turns(measures: Mapping[str, Callable[[], Report]]) -> dict[str, list[Report]]:
    """Each round another one first, and every second one backwards: a machine that slows down in a
    round does so to others. Ours and the bare engine are neighbours in all of five."""
    found: dict[str, list[Report]] = {way: [] for way in WAYS}
    lengths: set[int] = set()
    for number in range(ROUNDS):
        first = 3 * number % len(WAYS)
        ways = [*WAYS][first:] + [*WAYS][:first]
        for way in reversed(ways) if number % 2 else ways:
            print(f"   round {number + 1} of {ROUNDS}: {way}", flush=True)  # noqa: T201
            found[way].append(measures[way]())
            lengths |= set(found[way][-1].prompt_tokens)
            assert len(lengths) == 1, (way, lengths)  # the same text in front of every image
    return found


def _record(found: Mapping[str, list[Report]], watched: Mapping[str, Watched]) -> None:
    rates = {way: list(map(WAYS[way].images_per_s, reports)) for way, reports in found.items()}
    lines = [
        "| way | images/s | our factor | whole command, s | tokens a caption |",
        "|---|---|---|---|---|",
    ]
    for key, way in WAYS.items():
        factor = "1" if key == OURS else spread(ratios(rates[OURS], rates[key]), 3)
        whole = spread([report.whole_s for report in found[key]], 0)
        tokens = statistics.mean(n for report in found[key] for n in report.output_tokens)
        cells = (way.title, spread(rates[key], 3), factor, f"{whole}, {way.images} images")
        lines.append(f"| {' | '.join(cells)} | {tokens:.1f} |")
    cores = {way: average(one.cores) for way, one in watched.items()}
    lines += ["", "| cores of | are taken by |", "|---|---|"]
    lines += [f"| {WAYS[way].title} | {shares(taken)} |" for way, taken in cores.items()]
    reports = {way: [asdict(report) for report in found[way]] for way in WAYS}
    figures = {"blocks": BLOCKS, "per_s": rates, "cores": cores, "reports": reports}
    record("against_others", figures, "\n".join(lines))


if __name__ == "__main__":
    main()
