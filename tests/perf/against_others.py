"""Our pass against what people use: images per second of `caption.py` and of five other ways.

python -m tests.perf.against_others

Same checkpoint, photographs, prompt, greedy choice, most tokens of a caption, and cores; vLLM with
the same settings wherever it runs. The other ways (tests/perf/others.py) are public interfaces: the
original's static batches of four with transformers, with its three beams and greedy; `vllm
run-batch`; ray.data.llm's engine stage fed with prompt and image; Ray's example of captioning with
a vision model. They write no shards, gate nothing and cannot resume.

Counted is from the middle of the ends of the first images that are in work at once (16, or a batch
of four) to the middle of the last ones' ends: no start is in it. That is to their favour:
ray.data.llm prepares all these few images while its engine starts. Of its rows and of ours the time
is taken when the engine is done with them, not when they come out. `vllm run-batch` may not tell
any more when its last ones are done, so it gets 16 more, which are not counted. The whole command,
start included, stands beside it, and so do the tokens that a caption got. Read the factor: our rate
over theirs, of each round. Goal: above 1 for every one.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from tests.conftest import photo
from tests.flow.scripts import ROOT
from tests.perf.heavy import build_heavy
from tests.perf.measuring import ratios, record, spread
from tests.perf.others import BATCH, Report
from tests.perf.vllm_pass import SEQUENCES, Pass

IMAGES, FEW, ROUNDS = 48, 12, 3
SIZE = (640, 480)
LIMIT_S = 900
OURS = "caption.py"
STATIC, CONTINUOUS = (FEW, BATCH), (IMAGES, SEQUENCES)
"""Images of a measurement, and how many of them are in work at once. A static batch is like every
other one, so few will do."""
WAYS = {
    OURS: ("`caption.py`", *CONTINUOUS),
    "beams": ("transformers, batches of 4, 3 beams", *STATIC),
    "greedy": ("transformers, batches of 4, greedy", *STATIC),
    "run_batch": ("`vllm run-batch`", IMAGES + SEQUENCES, SEQUENCES),
    "engine_stage": ("ray.data.llm, engine stage alone", *CONTINUOUS),
    "vision_example": ("Ray's vision example", *CONTINUOUS),
}


def ours(whole: Pass) -> Report:
    whole.measure()
    rows = whole.rows
    return Report(
        [row["created_at"].timestamp() for row in rows],
        [row["prompt_tokens"] for row in rows],
        [row["output_tokens"] for row in rows],
        whole.wall_s,
    )


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


def images_per_s(way: str, report: Report) -> float:
    _, count, at_once = WAYS[way]
    assert len(report.done_at) == len(report.output_tokens) == count, (way, len(report.done_at))
    ends = sorted(report.done_at)[:IMAGES]
    return (len(ends) - at_once) / (
        statistics.fmean(ends[-at_once:]) - statistics.fmean(ends[:at_once])
    )


def main() -> None:
    """Runs for about a third of an hour on two cores (an estimate); most of it are starts."""
    found: dict[str, list[Report]] = {way: [] for way in WAYS}
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "checkpoint")
        images = [photo(seed, SIZE) for seed in range(IMAGES + SEQUENCES)]
        for _, count, _ in WAYS.values():
            _write(folder / f"images-{count}", images[:count])
        whole = Pass(checkpoint, images[:IMAGES], folder)
        for number in range(ROUNDS):
            for way in _turned([*WAYS], number):
                shown = folder / f"images-{WAYS[way][1]}"
                report = ours(whole) if way == OURS else theirs(way, checkpoint, shown, folder)
                found[way].append(report)
                rates[way].append(images_per_s(way, report))
                # The same text in front of the same image; ours is the first of all.
                assert set(report.prompt_tokens) == set(found[OURS][0].prompt_tokens), way
    _record(found, rates)


def _write(folder: Path, images: Sequence[bytes]) -> None:
    folder.mkdir(exist_ok=True)
    for number, image in enumerate(images):
        (folder / f"{number:04d}.jpg").write_bytes(image)


def _turned(ways: list[str], number: int) -> list[str]:
    """Each round another one first: a machine that slows down in a round does so to others."""
    first = 2 * number % len(ways)
    return ways[first:] + ways[:first]


def _record(found: dict[str, list[Report]], rates: dict[str, list[float]]) -> None:
    lines = [
        "| way | images/s | our factor | whole command, s | tokens a caption |",
        "|---|---|---|---|---|",
    ]
    for way, (title, count, _) in WAYS.items():
        factor = "1" if way == OURS else spread(ratios(rates[OURS], rates[way]))
        whole = spread([report.whole_s for report in found[way]], 0)
        tokens = statistics.mean(n for report in found[way] for n in report.output_tokens)
        cells = (title, spread(rates[way], 3), factor, f"{whole}, {count} images", f"{tokens:.1f}")
        lines.append(f"| {' | '.join(cells)} |")
    figures = {way: [asdict(report) for report in found[way]] for way in WAYS}
    record("against_others", {"per_s": rates, "reports": figures}, "\n".join(lines))


if __name__ == "__main__":
    main()
