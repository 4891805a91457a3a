"""Our pass against the bare engine and other tools: images per second of each.

python -m tests.perf.against_others

All ways have the same checkpoint, photographs, prompt, greedy decoding, token limit and cores; vLLM
has the same settings wherever it runs, and Ray's workers the same priority. The bare engine is
vLLM's AsyncLLM, which gets all requests at once with decoded pictures; our pass reads tar shards,
decodes, frames and commits. The other ways use public interfaces: the paper's own static batches of
four with transformers, with its three beams and greedy (static_batches); `vllm run-batch`
(run_batch); ray.data.llm's engine stage, given prompt and image, and Ray's example of captioning
with a vision model (on_ray). They write no shards, reject nothing and cannot resume.

A measurement lasts from the mean end time of the first images processed at once (16, or a batch of
four) to that of the last ones, so it includes no start. All ways with vLLM start once, with images
for all rounds, and their processes are stopped (SIGSTOP) during other ways' turns. For Ray's rows
and for ours, the time counts at which the engine finished them, not when they leave the pipeline.
Not all ways fit into memory together, so those on Ray have their own rounds, again with our pass.
Read the factor: our rate over theirs, in each round. Against the bare engine it is the share of
vLLM's rate that the pass keeps on the same cores; goal: median 0.95. We are ahead of another way if
every round says so; goal: ahead of all. The second table shows which processes used the cores.
"""

import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from tests.conftest import photo
from tests.perf import static_batches
from tests.perf.bare_engine import Bare
from tests.perf.heavy import build_heavy
from tests.perf.measuring import Goal, average, format_shares, format_spread, ratios, record
from tests.perf.on_ray import OnRay
from tests.perf.run_batch import RunBatch
from tests.perf.vllm_pass import LONGEST_STOP_S, SEQUENCES, MeasuredWay, Pass, Report

ROUNDS = 5
BLOCKS = 6 if torch.backends.cpu.get_cpu_capability() == "AVX512" else 4
"""Enough that vLLM takes at least 0.3 s per caption: with fewer, other work would be the limit."""
SIZE = (640, 480)
OURS, BARE, RUN_BATCH = "caption.py", "bare", "run_batch"
STAGE, VISION = "engine_stage", "vision_example"
IMAGES = {OURS: 960, RUN_BATCH: 352, STAGE: 480, VISION: 480}
"""Images for each way that starts once: those counted in all rounds, and those in between."""


@dataclass(frozen=True, slots=True)
class Way:
    """A way to caption images.

    Attributes:
        title: Its name in the table.
        images: Images per measurement.
        at_once: Number of images that are processed at the same time.
    """

    title: str
    images: int = 48
    at_once: int = SEQUENCES

    def images_per_s(self, report: Report) -> float:
        assert len(report.done_at) == len(report.output_tokens) == self.images, self
        ends = sorted(report.done_at)
        last, first = ends[-self.at_once :], ends[: self.at_once]
        return (len(ends) - self.at_once) / (statistics.fmean(last) - statistics.fmean(first))


WAYS = {
    OURS: Way("`caption.py`"),
    BARE: Way("the bare engine"),
    RUN_BATCH: Way("`vllm run-batch`"),
    # All static batches are alike, so few are enough.
    "beams": Way("transformers, batches of 4, 3 beams", 12, static_batches.BATCH),
    "greedy": Way("transformers, batches of 4, greedy", 12, static_batches.BATCH),
    STAGE: Way("ray.data.llm, engine stage alone"),
    VISION: Way("Ray's vision example"),
}
Rounds = Mapping[str, Sequence[Report]]
"""The reports of each way, round by round."""


def main() -> None:
    """Run the benchmark; takes about half of the time of `make bench`."""
    # Set before the fork server starts, which would not see later changes. Ray requires a token in
    # each process that it starts.
    os.environ |= {"VLLM_NO_USAGE_STATS": "1", "RAY_AUTH_MODE": "token"}
    os.environ["VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS"] = str(LONGEST_STOP_S)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "checkpoint", BLOCKS)
        images = [photo(seed, SIZE) for seed in range(max(IMAGES.values()))]
        files = _write_images(folder / "images", images)
        with closing(Pass(checkpoint, images, WAYS[OURS].images, folder)) as ours:
            alone, bare = _measure_without_ray(ours, checkpoint, images, files, folder)
            on_ray, theirs = _measure_on_ray(ours, checkpoint, files, folder)
    _record([alone, on_ray], {OURS: ours, BARE: bare} | theirs)


def _measure_without_ray(
    ours: Pass, checkpoint: Path, images: Sequence[bytes], files: Sequence[Path], folder: Path
) -> tuple[Rounds, MeasuredWay]:
    def in_batches(way: str, beams: int) -> Callable[[], Report]:
        shown, log = files[: WAYS[way].images], folder / f"{way}.log"
        return partial(static_batches.measure, checkpoint, shown, beams, log)

    shown, asked = images[: WAYS[BARE].images], files[: IMAGES[RUN_BATCH]]
    with (
        closing(Bare(checkpoint, shown)) as bare,
        closing(RunBatch(checkpoint, asked, WAYS[RUN_BATCH].images, folder)) as batch,
    ):
        measures = {RUN_BATCH: batch.measure, "beams": in_batches("beams", 3)}
        # These three are neighbours in every round.
        measures |= {"greedy": in_batches("greedy", 1), OURS: ours.measure, BARE: bare.measure}
        return _measure_in_turns(measures), bare


def _measure_on_ray(
    ours: Pass, checkpoint: Path, files: Sequence[Path], folder: Path
) -> tuple[Rounds, dict[str, MeasuredWay]]:
    def way(name: str) -> OnRay:
        return OnRay(name, checkpoint, files[: IMAGES[name]], WAYS[name].images, folder)

    with closing(way(STAGE)) as stage, closing(way(VISION)) as vision:
        measures = {STAGE: stage.measure, OURS: ours.measure, VISION: vision.measure}
        return _measure_in_turns(measures), {STAGE: stage, VISION: vision}


def _write_images(folder: Path, images: Sequence[bytes]) -> list[Path]:
    folder.mkdir()
    paths = [folder / f"{number:04d}.jpg" for number in range(len(images))]
    for path, image in zip(paths, images, strict=True):
        path.write_bytes(image)
    return paths


def _measure_in_turns(measures: Mapping[str, Callable[[], Report]]) -> Rounds:
    """Measure all ways in turn, every second round backwards, so that drift hits all alike."""
    found: dict[str, list[Report]] = {way: [] for way in measures}
    for number in range(ROUNDS):
        for way in reversed(measures) if number % 2 else measures:
            print(f"   round {number + 1} of {ROUNDS}: {way}", flush=True)  # noqa: T201
            found[way].append(measures[way]())
    return found


def _record(groups: Sequence[Rounds], watched: Mapping[str, MeasuredWay]) -> None:
    reports = {way: [one for group in groups for one in group.get(way, ())] for way in WAYS}
    lengths = {n for found in reports.values() for one in found for n in one.prompt_tokens}
    assert len(lengths) == 1, lengths  # the same text before every image
    rates = [
        {way: list(map(WAYS[way].images_per_s, found)) for way, found in group.items()}
        for group in groups
    ]
    factors = {
        way: ratios(group[OURS], theirs)
        for group in rates
        for way, theirs in group.items()
        if way != OURS
    }
    lines = [
        "| way | images/s | our factor | tokens a caption |",
        "|---|---|---|---|",
    ]
    for key, way in WAYS.items():
        speed = [rate for group in rates for rate in group.get(key, ())]
        factor = "1" if key == OURS else format_spread(factors[key], 3)
        tokens = statistics.mean(n for report in reports[key] for n in report.output_tokens)
        lines.append(f"| {way.title} | {format_spread(speed, 3)} | {factor} | {tokens:.1f} |")
    cores = {way: one.cores() for way, one in watched.items()}
    lines += ["", "| cores of | are taken by |", "|---|---|"]
    lines += [
        f"| {WAYS[way].title} | {format_shares(average(taken))} |" for way, taken in cores.items()
    ]
    figures = {
        "blocks": BLOCKS,
        "per_s": rates,
        "factors": factors,
        "cores": cores,
        "reports": {way: list(map(asdict, found)) for way, found in reports.items()},
    }
    record("against_others", figures, "\n".join(lines))


def goals(figures: Mapping[str, Any]) -> list[Goal]:
    """The goals; ahead means ahead in every round, as machines vary more than most ways differ."""
    factors = figures["factors"]
    kept = statistics.median(factors[BARE])
    least = min(factor for way, found in factors.items() if way != BARE for factor in found)
    return [
        Goal("rate of the bare engine that the pass keeps", kept, 0.95),
        Goal("least factor over what people use, in any round", least, 1.0),
    ]


if __name__ == "__main__":
    main()
