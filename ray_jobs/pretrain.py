"""Train the latter half of the vision tower, projector and language model (Sec. 4.2).

Without a GPU, on drawn scenes, nothing to download:
    python ray_jobs/pretrain.py demo

The paper's run on a cluster, data and models below $S4V_ROOT:
    ray job submit -- python ray_jobs/pretrain.py

What would learn, memory per GPU, steps and time, without weights or GPUs:
    python ray_jobs/pretrain.py paper --plan --workers 16 --accelerator A100-80G

The same command again resumes from the newest checkpoint; the first Ctrl-C saves one, a second one
stops. The trained model is exported to OUTPUT/model, which transformers and vLLM load.
Exit code 0: it is there. 1: steps are missing. 2: bad input, or a store that takes nothing.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_jobs.command_line import run_main
from ray_jobs.stages import train_main
from s4v_core.recipes import PRETRAIN


def main(argv: list[str]) -> int:
    return train_main(PRETRAIN, argv, __doc__ or "")


if __name__ == "__main__":
    run_main(main)
