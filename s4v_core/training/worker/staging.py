"""The copy of a worker's state from which a checkpoint is written while training continues."""

import torch
from torch.distributed.checkpoint.staging import AsyncStager, DefaultStager, StagingOptions


def build_stager(device: torch.device) -> AsyncStager:
    """Build the stager of a run. It keeps its buffers, so that all checkpoints of a run take the
    room of one copy.

    On a GPU the buffers are pinned, which makes the copy several times as fast. Training waits for
    the copy and not for the writing: a copy beside the next step would be of weights that change.
    """
    on_gpu = device.type == "cuda"
    return DefaultStager(
        StagingOptions(
            use_pinned_memory=on_gpu,
            use_shared_memory=False,
            use_async_staging=False,
            use_non_blocking_copy=on_gpu,
        )
    )
