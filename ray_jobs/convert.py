"""Convert a checkpoint between the original ShareGPT4V / LLaVA-1.5 layout and ours, either way.

    python ray_jobs/convert.py ShareGPT4V-7B sharegpt4v-7b \\
        --tower ShareGPT4V-7B_Pretrained_vit-large336-l12
    python ray_jobs/convert.py sharegpt4v-7b back-again

The direction follows from what SRC is. DST is what transformers and vLLM load; it must not exist.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from typing import Annotated

import tyro

from ray_jobs.command_line import read_flags, run_main
from s4v_core.config import Config

LAYOUTS = {"ours": "transformers and vLLM", "original": "original"}


class ConvertJob(Config):
    """Convert a checkpoint between the original layout and ours."""

    source: Annotated[Path, tyro.conf.Positional]
    """Checkpoint folder to read."""
    target: Annotated[Path, tyro.conf.Positional]
    """Folder to write; must not exist."""
    tower: Path | None = None
    """Folder of the tuned vision tower; default: vision_tower inside the source."""


def main(argv: list[str]) -> int:
    job = read_flags(ConvertJob, argv, __doc__ or "")
    from tqdm import tqdm

    from s4v_core.model.conversion import convert  # --help stays quick

    with tqdm(desc="converting", unit=" tensors") as bar:

        def tell(name: str) -> None:
            bar.update()

        layout = convert(job.source, job.target, job.tower, tell)
    print(f"{job.target}: written in the {LAYOUTS[layout]} layout")
    return 0


if __name__ == "__main__":
    run_main(main)
