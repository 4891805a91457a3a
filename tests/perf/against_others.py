"""Our pass against the bare engine and what people use: images per second of each.

python -m tests.perf.against_others

Same checkpoint, photographs, prompt, greedy choice, most tokens of a caption, and cores; vLLM with
the same settings wherever it runs, Ray with the same priority of its workers. The bare engine is
vLLM's AsyncLLM with all requests handed over at once and its pictures decoded before; our pass
reads tar shards, decodes, frames and commits. The other ways (tests/perf/others.py) are public
interfaces: the original's static batches of four with transformers, with its three beams and
greedy; `vllm run-batch`; ray.data.llm's engine stage fed with prompt and image; Ray's example of
captioning with a vision model. They write no shards, gate nothing and cannot resume.

Counted is from the middle of the ends of the first images that are in work at once (16, or a batch
of four) to the middle of the last ones' ends: no start is in it. So our pass and `vllm run-batch`
start once, with images for all rounds, and all their processes are stopped (SIGSTOP) while it is
others' turn; the bare engine starts once; other processes come with imports done and Ray runs
before. That is to the others' favour: ray.data.llm prepares all its few images while its engine
starts. Of its rows and of ours the time is taken when the engine is done with them, not when they
come out.
Read the factor: our rate over theirs, of each round. Beside the bare engine it is what the pass
keeps of vLLM's rate on cores that both share; goal: 0.95. Beside every other way: above 1. Below
stands who had the cores meanwhile.
"""

import itertools
import os
import statistics
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch

from tests.conftest import photo
from tests.perf import others
from tests.perf.bare_engine import Bare
from tests.perf.heavy import build_heavy
from tests.perf.measuring import average, ratios, record, shares, spread
from tests.perf.others import BATCH, RAY_CPUS
from tests.perf.passes import cluster
from tests.perf.run_batch import RunBatch
from tests.perf.vllm_pass import LONGEST_STOP_S, SEQUENCES, Pass, Report, Watched

ROUNDS = 5
BLOCKS = 6 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4
"""So many that vLLM takes at least 0.3 s for a caption: fewer would not set the pace."""
SIZE = (640, 480)
OURS, BARE, RUN_BATCH = "caption.py", "bare", "run_batch"
IMAGES = {OURS: 512, RUN_BATCH: 416}
"""Of a way that starts once: what is counted of all rounds, and what else is done meanwhile."""


@dataclass(frozen=True, slots=True)
class Way:
    """Attributes:
    images: Of a measurement.
    at_once: How many of them are in work at the same time.
    on_ray: Whether it needs one that runs.
    """

    title: str
    images: int = 48
    at_once: int = SEQUENCES
    on_ray: bool = False

    def images_per_s(self, report: Report) -> float:
        assert len(report.done_at) == len(report.output_tokens) == self.images, self
        ends = sorted(report.done_at)
        last, first = ends[-self.at_once :], ends[: self.at_once]
        return (len(ends) - self.at_once) / (statistics.fmean(last) - statistics.fmean(first))


WAYS = {
    RUN_BATCH: Way("`vllm run-batch`", 64),
    # A static batch is like every other one, so few will do.
    "beams": Way("transformers, batches of 4, 3 beams", 12, BATCH),
    "greedy": Way("transformers, batches of 4, greedy", 12, BATCH),
    BARE: Way("the bare engine", 64),
    OURS: Way("`caption.py`", 64),
    "engine_stage": Way("ray.data.llm, engine stage alone", on_ray=True),
    "vision_example": Way("Ray's vision example", on_ray=True),
}
"""In the order of a round."""


def main() -> None:
    """Runs for half an hour on two slow cores (AMD EPYC)."""
    # Before the process is there that the others are forked from, for it will not hear of them:
    # Ray asks for a token in each that it starts on one machine.
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "RAY_AUTH_MODE": "token"}
    os.environ["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = str(LONGEST_STOP_S)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "checkpoint", BLOCKS)
        images = [photo(seed, SIZE) for seed in range(max(IMAGES.values()))]
        files = _write(folder / "images", images)
        bare = Bare(checkpoint, images[: WAYS[BARE].images])
        batch = RunBatch(checkpoint, files[: IMAGES[RUN_BATCH]], WAYS[RUN_BATCH].images, folder)
        whole = Pass(checkpoint, images[: IMAGES[OURS]], WAYS[OURS].images, folder)
        measures: dict[str, Callable[[str], Report]] = {
            OURS: lambda _: whole.measure(),
            BARE: lambda _: bare.measure(),
            RUN_BATCH: lambda _: batch.measure(),
        }
        for key in WAYS.keys() - measures.keys():
            shown, log = files[: WAYS[key].images], folder / f"{key}.log"
            measures[key] = partial(others.measure, key, checkpoint, shown, log)
        try:
            found = _by_turns(measures)
        finally:
            for way in (whole, batch, bare):
                way.close()
    _record(found, {OURS: whole, BARE: bare})


def _write(folder: Path, images: Sequence[bytes]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:04d}.jpg" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    return paths


def _by_turns(measures: Mapping[str, Callable[[str], Report]]) -> dict[str, list[Report]]:
    """Every second round is backwards: a machine that slows down in a round does so to others. Ours
    and the bare engine are always neighbours."""
    found: dict[str, list[Report]] = {way: [] for way in WAYS}
    for number in range(ROUNDS):
        order = reversed(WAYS) if number % 2 else iter(WAYS)
        for on_ray, ways in itertools.groupby(order, key=lambda way: WAYS[way].on_ray):
            with _ray(on_ray) as address:
                for way in ways:
                    print(f"   round {number + 1} of {ROUNDS}: {way}", flush=True)  # noqa: T201
                    found[way].append(measures[way](address))
    return found


@contextmanager
def _ray(needed: bool) -> Iterator[str]:
    """Its address, and none where nobody needs one: even idle it would take from their cores."""
    if not needed:
        yield ""
        return
    with cluster(RAY_CPUS) as ray:
        yield ray.address


def _record(found: Mapping[str, list[Report]], watched: Mapping[str, Watched]) -> None:
    lengths = {
        way: {n for one in reports for n in one.prompt_tokens} for way, reports in found.items()
    }
    assert len(set().union(*lengths.values())) == 1, lengths  # the same text before every image
    rates = {way: list(map(WAYS[way].images_per_s, reports)) for way, reports in found.items()}
    lines = [
        "| way | images/s | our factor | tokens a caption |",
        "|---|---|---|---|",
    ]
    for key in sorted(WAYS, key=lambda way: (way != OURS, way != BARE)):
        factor = "1" if key == OURS else spread(ratios(rates[OURS], rates[key]), 3)
        tokens = statistics.mean(n for report in found[key] for n in report.output_tokens)
        cells = (WAYS[key].title, spread(rates[key], 3), factor)
        lines.append(f"| {' | '.join(cells)} | {tokens:.1f} |")
    cores = {way: one.cores() for way, one in watched.items()}
    lines += ["", "| cores of | are taken by |", "|---|---|"]
    lines += [f"| {WAYS[way].title} | {shares(average(taken))} |" for way, taken in cores.items()]
    reports = {way: [asdict(report) for report in found[way]] for way in WAYS}
    figures = {"blocks": BLOCKS, "per_s": rates, "cores": cores, "reports": reports}
    record("against_others", figures, "\n".join(lines))


if __name__ == "__main__":
    main()
