"""Builds the parts of a worker from the description of its run."""

from dataclasses import replace

import torch

from s4v_core import storage
from s4v_core.checkpoints import SETTINGS, WEIGHTS, locate_checkpoint
from s4v_core.training.arithmetic.flops import find_peak_flops
from s4v_core.training.data.loader import StepReader
from s4v_core.training.data.samples import fetch_samples
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.stage import Optimiser, TrainStage
from s4v_core.training.worker.attention import choose_kernel
from s4v_core.training.worker.fsdp_units import Switches
from s4v_core.training.worker.loss_module import LossModule
from s4v_core.training.worker.sharding import build_sharded_module
from s4v_core.training.worker.trackers import Trackers
from s4v_core.training.worker.validation import Validation
from s4v_core.training.worker.world import World


def build_module(spec: RunSpec, world: World) -> LossModule:
    """Build the sharded model of a run with the weights of its start checkpoint.

    Raises:
        ConfigError: The start model cannot be read, or its weights do not fit its config.
        UnreachableError: Its store does not answer.
    """
    job = spec.job
    dtype = torch.bfloat16 if _choose_precision(job, world) == "bf16" else torch.float32
    switches = Switches(
        kernel=choose_kernel(job.attention, world.device, dtype),
        compile=job.compile,
        prefetch=job.prefetch,
        reshard_after_forward=job.reshard_after_forward,
        activation_checkpointing=job.activation_checkpointing,
    )
    with storage.patience(storage.UNIT_PATIENCE_S):
        folder, _ = locate_checkpoint(spec.model, (*SETTINGS, *WEIGHTS))
    return build_sharded_module(
        folder, job.learning, world.mesh, dtype, switches, job.lora, job.seed
    )


def build_reader(spec: RunSpec, world: World) -> StepReader:
    """Build the reader of this worker's share of every step."""
    return StepReader(
        samples=fetch_samples(spec.samples, spec.samples_sha256),
        order=spec.order,
        collator=spec.collator,
        framing=spec.framing,
        worker=world.rank,
        workers=world.size,
        device_batch_size=spec.job.device_batch_size,
        left_out=spec.left_out,
        patience_s=spec.job.store_patience_s,
    )


def build_validation(spec: RunSpec, world: World) -> Validation | None:
    """Build what measures the held-out loss; None if no samples are held out."""
    job = spec.job
    if not job.validation_share:
        return None
    held_out = spec.order.build_held_out()
    return Validation(
        reader=replace(build_reader(spec, world), order=held_out),
        parts=held_out.steps_per_epoch,
        loader_workers=job.loader_workers,
        every_steps=job.validate_every_steps,
        last_step=spec.steps,
    )


def open_trackers(spec: RunSpec) -> Trackers | None:
    """Open the services that a run's metrics go to; None if there are none."""
    if not spec.job.log_to:
        return None
    settings = spec.job.model_dump(mode="json")
    return Trackers(spec.job.log_to, spec.output, spec.digest, settings)


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
    """Build the optimiser of a stage. The bare loop of the benchmark uses the same one.

    Only matrices decay. A norm's scale and a bias are vectors; pulling them to zero regularises
    nothing.
    """
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.beta1, settings.beta2),
        eps=settings.eps,
        fused=True,
    )
