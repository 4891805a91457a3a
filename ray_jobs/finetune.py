"""Train projector and language model on conversations (Sec. 4.3).

Try it without a GPU, on drawn scenes, with nothing to download:
    python ray_jobs/finetune.py demo

Repeat the paper's run on a cluster, with data and models below $S4V_ROOT:
    ray job submit -- python ray_jobs/finetune.py

Print what would learn, memory per GPU, steps and time, without weights or GPUs:
    python ray_jobs/finetune.py paper --plan --workers 16 --accelerator A100-80G

Running the same command again resumes from the newest checkpoint. The first Ctrl-C saves a
checkpoint and stops; a second one stops at once. SIGTERM saves a checkpoint, too, and ends with
status 143. The trained model is exported to OUTPUT/model, where transformers and vLLM can load it.
Exit codes: 0 if the model is exported and no more samples were lost than --max-missing-share
allows, 1 if steps are missing or the run stopped with a sentence that says how to go on, 2 if the
input is bad or the store refuses writes, 3 if the data or images were changed after the run began.
"""

import sys
from pathlib import Path

try:
    import s4v_core  # noqa: F401 - installed, or on the path of a submitted job
except ModuleNotFoundError:
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from ray_jobs.command_line import run_main
from ray_jobs.stages import train_main
from s4v_core.recipes import FINETUNE


def main(argv: list[str]) -> int:
    return train_main(FINETUNE, argv, __doc__ or "")


if __name__ == "__main__":
    run_main(main)
