"""Builds the parts of a worker from the description of its run."""

import torch

from s4v_core import storage
from s4v_core.checkpoints import SETTINGS, WEIGHTS, locate_checkpoint
from s4v_core.images.policy import Framing
from s4v_core.training.data.loader import StepReader
from s4v_core.training.data.samples import fetch_samples
from s4v_core.training.estimate.flops import find_peak_flops
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.stage import Optimiser, TrainStage
from s4v_core.training.worker.loss_module import LossModule
from s4v_core.training.worker.sharding import build_sharded_module
from s4v_core.training.worker.world import World


def build_module(spec: RunSpec, world: World) -> LossModule:
    """Build the sharded model of a run with the weights of its start checkpoint.

    Raises:
        ConfigError: The start model cannot be read, or its weights do not fit its config.
        UnreachableError: Its store does not answer.
    """
    job = spec.job
    dtype = torch.bfloat16 if _choose_precision(job, world) == "bf16" else torch.float32
    with storage.patience(storage.UNIT_PATIENCE_S):
        folder, _ = locate_checkpoint(spec.model, (*SETTINGS, *WEIGHTS))
    return build_sharded_module(
        folder, job.learning, world.mesh, dtype, job.activation_checkpointing
    )


def build_reader(spec: RunSpec, world: World) -> StepReader:
    """Build the reader of this worker's share of every step."""
    return StepReader(
        samples=fetch_samples(spec.samples, spec.samples_sha256),
        order=spec.order,
        collator=spec.collator,
        framing=Framing(spec.job.image_mode, spec.collator.side_px),
        worker=world.rank,
        workers=world.size,
        device_batch_size=spec.job.device_batch_size,
        left_out=spec.left_out,
        patience_s=spec.job.store_patience_s,
    )


def find_total_peak_flops(world: World) -> float | None:
    """Peak operations per second of all workers' devices, or None if it is not known."""
    if world.device.type != "cuda":
        return None
    peak = find_peak_flops(torch.cuda.get_device_name())
    return peak and peak * world.size


def _choose_precision(job: TrainStage, world: World) -> str:
    if job.precision != "auto":
        return job.precision
    return "bf16" if world.device.type == "cuda" else "fp32"


def build_optimiser(parameters: list[torch.nn.Parameter], settings: Optimiser) -> torch.optim.AdamW:
    """Build the optimiser of a stage. The bare loop of the benchmark uses the same one."""
    return torch.optim.AdamW(
        parameters,
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        weight_decay=settings.weight_decay,
        fused=True,
    )
