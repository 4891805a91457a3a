"""Convert a checkpoint from the original ShareGPT4V / LLaVA-1.5 layout to ours, or back.

    python ray_jobs/convert.py ShareGPT4V-7B sharegpt4v-7b \\
        --tower ShareGPT4V-7B_Pretrained_vit-large336-l12
    python ray_jobs/convert.py sharegpt4v-7b back-again

Join a language model, a vision tower and a projector; without --projector it is random, always the
same. This is the start of the paper's pretraining:

    python ray_jobs/convert.py vicuna-7b-clip-l-336 --language vicuna-7b-v1.5 \\
        --tower clip-vit-large-patch14-336 \\
        --projector llava-v1.5-mlp2x-336px-pretrain-vicuna-7b-v1.5/mm_projector.bin

Merge a LoRA adapter into its model. An adapter of LLaVA's own scripts takes Vicuna and --tower:

    python ray_jobs/convert.py adapter merged --base sharegpt4v-7b

The layout of SRC decides the direction. In our layout, DST can be loaded by transformers and vLLM.
DST must not exist yet, and appears only when it is complete. Each tensor of SRC is written, or
counted as left out; what is missing or does not fit is named, and the exit code is 2.
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
from s4v_core.errors import ConfigError

_LAYOUTS = {"ours": "transformers and vLLM", "original": "original"}


class ConvertJob(Config):
    """Convert a checkpoint from the original layout to ours, or back; join or merge parts."""

    folders: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """SRC and DST: the checkpoint folder to read, and the folder to write, which must not exist
    yet. With --language, DST alone."""
    tower: Path | None = None
    """Folder of the vision tower, a CLIP; by default vision_tower inside the source."""
    language: Path | None = None
    """Folder of a language model such as Vicuna, to join with --tower."""
    projector: Path | None = None
    """File mm_projector.bin of LLaVA, for --language or for an adapter without one."""
    base: Path | None = None
    """Folder of the model that the adapter SRC is merged into."""


def main(argv: list[str]) -> int:
    job = read_flags(ConvertJob, argv, __doc__ or "")
    _refuse_other_combinations(job)
    from tqdm import tqdm

    from s4v_core.model.conversion import convert, join  # late, so that --help stays quick

    target = job.folders[-1]
    with tqdm(desc="converting", unit=" tensors") as bar:

        def advance(name: str) -> None:
            bar.update()

        if job.language is not None and job.tower is not None:
            done = join(job.language, job.tower, job.projector, target, advance)
        else:
            done = convert(job.folders[0], target, job.tower, advance, job.base, job.projector)
    for reason, count in done.left_out.items():
        show(f"tensors left out: {count} ({reason})")
    show(f"{target}: written in the {_LAYOUTS[done.layout]} layout")
    return 0


def _refuse_other_combinations(job: ConvertJob) -> None:
    if job.language is None and len(job.folders) != 2:
        raise ConfigError(f"folders: found {len(job.folders)}, allowed two, SRC DST")
    if job.language is None:
        return
    if len(job.folders) != 1:
        raise ConfigError(f"folders: found {len(job.folders)}, allowed DST alone with --language")
    if job.tower is None:
        raise ConfigError("tower: needed with --language; name the folder of a CLIP")
    if job.base is not None:
        raise ConfigError("base: found beside --language; merge the adapter with SRC DST --base")


if __name__ == "__main__":
    run_main(main)
