"""The bare loop that the training loop is compared with.

python -m tests.perf.bare_training STEPS bare|fed FLAG ...

trains what `finetune.py` trains with the same flags. After each step it writes the seconds and the
loss of the step to the file STEPS. It records and reports nothing else.
"""

import json
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from transformers import LlavaForConditionalGeneration

from ray_jobs.command_line import parse
from s4v_core.checkpoints import locate_checkpoint
from s4v_core.images.policy import Framing
from s4v_core.model.learning import set_learning
from s4v_core.recipes import FINETUNE
from s4v_core.training.checks import check_stage
from s4v_core.training.data.collation import MicroBatch
from s4v_core.training.data.loader import StepReader, read_steps
from s4v_core.training.data.samples import fetch_samples
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.schedule import compute_learning_rate
from s4v_core.training.worker.components import build_optimiser
from s4v_core.training.worker.fsdp_units import Switches
from s4v_core.training.worker.loss_module import LossModule
from s4v_core.training.worker.sharding import build_sharded_module
from s4v_core.training.worker.world import World, open_local_world

BARE, FED = "bare", "fed"
THREADS = 1
"""Number of threads of torch; Ray gives a worker with one CPU as many."""


def main(steps: str, way: str, *flags: str) -> None:
    """Train with one of two loops.

    Args:
        way: BARE has an unsharded model, and all tensors in memory before the first step. FED has
            the product's model, sharded over one worker, and its loader, which reads ahead.
    """
    torch.set_num_threads(THREADS)
    torch.set_float32_matmul_precision("high")  # the same setting as in the product's loop
    _, spec = prepare_run(check_stage(parse(FINETUNE, list(flags), "")))
    reader = _build_reader(spec)
    if way == BARE:
        _record(
            _train(spec, _build_plain(spec), [reader[step] for step in range(spec.steps)]), steps
        )
        return
    with open_local_world("cpu") as world:
        ahead = read_steps(reader, range(spec.steps), spec.job.loader_workers)
        _record(_train(spec, _build_sharded(spec, world), ahead), steps)


def _record(found: Iterable[tuple[float, float]], steps: str) -> None:
    with Path(steps).open("w") as sink:
        for step in found:
            sink.write(json.dumps(step) + "\n")
            sink.flush()


def _train(
    spec: RunSpec, module: LossModule, batches: Iterable[list[MicroBatch]]
) -> Iterator[tuple[float, float]]:
    settings = spec.job.optimiser
    parameters = [p for p in module.parameters() if p.requires_grad]
    optimiser = build_optimiser(parameters, settings)
    started = time.monotonic()
    for number, rounds in enumerate(batches):
        loss = _run_backward(module, rounds)
        torch.nn.utils.clip_grad_norm_(parameters, settings.clip)
        for group in optimiser.param_groups:
            group["lr"] = compute_learning_rate(number, spec.steps, settings)
        optimiser.step()
        optimiser.zero_grad()
        ended = time.monotonic()
        yield ended - started, loss
        started = ended


def _build_reader(spec: RunSpec) -> StepReader:
    job = spec.job
    return StepReader(
        samples=fetch_samples(spec.samples, spec.samples_sha256),
        order=spec.order,
        collator=spec.collator,
        framing=Framing(job.image_mode, spec.collator.side_px),
        worker=0,
        workers=1,
        device_batch_size=job.device_batch_size,
    )


def _build_sharded(spec: RunSpec, world: World) -> LossModule:
    job = spec.job
    folder, _ = locate_checkpoint(spec.model)
    switches = Switches(activation_checkpointing=job.activation_checkpointing)
    return build_sharded_module(folder, job.learning, world.mesh, torch.float32, switches)


def _build_plain(spec: RunSpec) -> LossModule:
    learning = spec.job.learning
    model = LlavaForConditionalGeneration.from_pretrained(spec.model, dtype=torch.float32).train()
    set_learning(
        model, learning.vision_from, learning.vision_stem, learning.projector, learning.language
    )
    if spec.job.activation_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
    return LossModule(model)


def _run_backward(module: LossModule, rounds: list[MicroBatch]) -> float:
    learnt, loss = sum(batch.learnt for batch in rounds), 0.0
    for batch in rounds:
        part = module(batch) / learnt
        part.backward()
        loss += float(part.detach())
    return loss


if __name__ == "__main__":
    main(*sys.argv[1:])
