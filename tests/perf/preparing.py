"""Preparing the samples of a training run: samples per second by number of processes.

python -m tests.perf.preparing FOLDER [PROCESSES ...]
"""

import json
import random
import resource
import shutil
import sys
import time
from pathlib import Path

from s4v_core.recipes import PRETRAIN
from s4v_core.training.checks import check_stage
from s4v_core.training.preparation import prepare_run
from s4v_core.training.stage import TrainStage
from tests.conftest import photo

SAMPLES, FILES, WORDS = 40_000, 500, 150
VOCABULARY = (
    *("a", "large", "red", "circle", "in", "the", "upper", "left", "corner", "of", "small"),
    *("blue", "square", "below", "image"),
)


def write_data(folder: Path) -> Path:
    """Write a JSON of captions of 150 words each, and the images that they name."""
    chance = random.Random(0)
    path = folder / "data.json"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(FILES):
        (folder / f"{number}.jpg").write_bytes(photo(number, (64, 48)))
    with path.open("w") as file:
        file.write("[\n")
        for number in range(SAMPLES):
            said = " ".join(chance.choices(VOCABULARY, k=WORDS))
            turns = [{"from": "human", "value": "<image>"}, {"from": "gpt", "value": said}]
            record = {"id": number, "image": f"{number % FILES}.jpg", "conversations": turns}
            file.write(("," if number else "") + json.dumps(record) + "\n")
        file.write("]\n")
    return path


def main(folder: Path, processes: list[int | None]) -> None:
    data = write_data(folder)
    for count in processes:
        output = folder / "run"
        shutil.rmtree(output, ignore_errors=True)
        job = PRETRAIN["demo"].replace(
            demo_scenes=0, data=(str(data),), images=(), output=str(output)
        )
        if "prepare_workers" in TrainStage.model_fields:
            job = job.replace(prepare_workers=count)
        checked = check_stage(job)
        started = time.monotonic()
        counts, _ = prepare_run(checked)
        seconds = time.monotonic() - started
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
        sys.stdout.write(
            f"{count} processes: {counts.samples / seconds:.0f} samples/s "
            f"({counts.samples} in {seconds:.1f} s), peak {peak:.2f} GiB in this process\n"
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), [int(one) for one in sys.argv[2:]] or [None])
