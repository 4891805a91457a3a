"""Explains why a run stops before a step: which samples are at fault, and how to go on.

All workers call these functions together and get the same error.
"""

from collections import Counter
from dataclasses import replace

import torch

from s4v_core.errors import S4VError, StorageError, TrainingError
from s4v_core.training.left_out import read_sample_ids, write_stopped
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.worker.components import build_reader
from s4v_core.training.worker.loss_module import LossModule
from s4v_core.training.worker.step_feed import FedStep
from s4v_core.training.worker.step_totals import list_unread
from s4v_core.training.worker.world import World

_EXAMPLES = 5
"""Number of sample ids in a sentence; the file has all of them."""
_NOT_FINITE = "loss_not_finite"
"""Reason of a sample whose loss, or whose gradient, is NaN or infinite."""


def share_error(world: World, own: S4VError | None) -> S4VError | None:
    """The first error of any worker, or None if none has one."""
    return next((one for one in world.gather_from_workers(own) if one is not None), None)


def explain_lost_samples(spec: RunSpec, world: World, fed: FedStep, problem: str) -> TrainingError:
    """The error of a step that loses too many samples; names reasons, workers and samples."""
    gathered = world.gather_from_workers(list_unread(fed.batches or ()))
    lost = [one for part in gathered for one in part]
    by_reason = Counter(reason for _, reason in lost)
    by_worker = {worker: len(part) for worker, part in enumerate(gathered) if part}
    sentence = f"{problem}; in this step {len(lost)}: {_join(by_reason)}"
    if world.size > 1:
        sentence += f" (workers {_join({str(w): n for w, n in by_worker.items()})})"
    places = _name_samples(spec, world, fed.step, lost)
    return TrainingError(
        fed.step + 1,
        f"{sentence}; {places}. {_describe_saved(fed.step)}. Make the images readable and run the "
        "same command again, or go on without these samples with --leave-out FILE, or allow more "
        "losses with --max-missing-share",
    )


def explain_no_number(
    spec: RunSpec, world: World, module: LossModule, step: int, loss: float, grad_norm: float
) -> TrainingError:
    """The error of a step whose loss or gradient is not a finite number; names the samples."""
    samples = [int(number) for number in spec.order.draw_step(step)]
    used = [number for number in samples if number not in spec.left_out]
    bad = _find_bad_samples(spec, world, module, step)
    what = f"the loss is {loss}, its gradient {grad_norm}"
    if set(bad) >= set(used):
        return TrainingError(
            step + 1,
            f"{what}, with every sample of the step, so the weights are at fault; nothing of the "
            f"step was applied. {_describe_saved(step)}, but a new run with a lower "
            "--optimiser.learning-rate and another --output is needed",
        )
    places = _name_samples(spec, world, step, [(number, _NOT_FINITE) for number in bad or used])
    at_fault = "because of" if bad else "from some of"
    return TrainingError(
        step + 1,
        f"{what}, {at_fault} {len(bad or used)} of its {len(used)} samples; {places}. Nothing of "
        f"the step was applied. {_describe_saved(step)}. Go on without these samples with "
        "--leave-out FILE",
    )


def _find_bad_samples(spec: RunSpec, world: World, module: LossModule, step: int) -> list[int]:
    """The samples of a step whose own loss is not finite, each computed alone."""
    reader = replace(build_reader(spec, world), device_batch_size=1)
    read = reader[step]
    bad: list[int] = []
    is_read = world.sum_over_workers({"failed": float(isinstance(read, StorageError))})
    if is_read["failed"] or isinstance(read, StorageError):
        return []
    with torch.no_grad():
        for batch in read:
            loss = module(batch.to(world.device))
            if not bool(torch.isfinite(loss)):
                bad += batch.numbers
    return [number for part in world.gather_from_workers(bad) for number in part]


def _name_samples(spec: RunSpec, world: World, step: int, lost: list[tuple[int, str]]) -> str:
    """Name a few samples, and the file with all of them, which the leading worker writes."""
    samples = build_reader(spec, world).samples
    ids = read_sample_ids(samples, [number for number, _ in lost[:_EXAMPLES]])
    more = ", ..." if len(lost) > _EXAMPLES else ""
    file = ""
    if world.is_leader:
        file = write_stopped(spec.output, step + 1, samples, lost)
    file = world.gather_from_workers(file)[0]
    return f"samples {', '.join(map(repr, ids))}{more} (FILE: {file})" if ids else f"FILE: {file}"


def _describe_saved(step: int) -> str:
    return f"A checkpoint of step {step} is saved" if step else "No step was done before"


def _join(counts: dict[str, int] | Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counts.items())) or "none"
