"""Convert a checkpoint from the original ShareGPT4V / LLaVA-1.5 layout to ours, or back.

    python ray_jobs/convert.py ShareGPT4V-7B sharegpt4v-7b \\
        --tower ShareGPT4V-7B_Pretrained_vit-large336-l12
    python ray_jobs/convert.py sharegpt4v-7b back-again

The layout of SRC decides the direction. In our layout, DST can be loaded by transformers and vLLM.
DST must not exist yet.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import Annotated

import tyro

from ray_jobs.command_line import read_flags, run_main, show
from s4v_core.config import Config

_LAYOUTS = {"ours": "transformers and vLLM", "original": "original"}


class ConvertJob(Config):
    """Convert a checkpoint from the original layout to ours, or back."""

    source: Annotated[Path, tyro.conf.Positional]
    """Checkpoint folder to read."""
    target: Annotated[Path, tyro.conf.Positional]
    """Folder to write; it must not exist yet."""
    tower: Path | None = None
    """Folder of the tuned vision tower; by default vision_tower inside the source."""


def main(argv: list[str]) -> int:
    job = read_flags(ConvertJob, argv, __doc__ or "")
    from tqdm import tqdm

    from s4v_core.model.conversion import convert  # late, so that --help stays quick

    with tqdm(desc="converting", unit=" tensors") as bar:

        def advance(name: str) -> None:
            bar.update()

        layout = convert(job.source, job.target, job.tower, advance)
    show(f"{job.target}: written in the {_LAYOUTS[layout]} layout")
    return 0


if __name__ == "__main__":
    run_main(main)
