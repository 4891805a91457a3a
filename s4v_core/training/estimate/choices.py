"""Estimates what learns and what memory it needs, for the job's first vision block that learns and
for others to choose from."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from s4v_core.model.learning import count_learning
from s4v_core.training.arithmetic.flops import Shape
from s4v_core.training.estimate.footprint import (
    BF16,
    FP32,
    Load,
    count_layer_inputs,
    estimate_memory,
)
from s4v_core.training.estimate.switches import find_machine
from s4v_core.training.estimate.weights import count_weights
from s4v_core.training.lora import PROJECTOR_TARGETS
from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.empty_model import choose_learning


@dataclass(frozen=True, slots=True)
class Pictures:
    """The images of a job, as far as its memory depends on them.

    Attributes:
        per_sample: Mean number of images of a sample.
        shape: The model's sizes with an image of the mean size.
        largest: The model's sizes with the largest image.
    """

    per_sample: float
    shape: Shape
    largest: Shape


@dataclass(frozen=True, slots=True)
class Choice:
    """The estimate for one choice of the first vision block that learns.

    Attributes:
        vision_from: First vision block that learns.
        learning: Number of parameters that learn, by group.
        components: Bytes per GPU by component, with samples of the expected length.
        longest: Total bytes per GPU if every sample has the largest allowed length.
        published_gb: GB per GPU of the original run; None if not published.
    """

    vision_from: int
    learning: dict[str, int]
    components: dict[str, int]
    longest: int
    published_gb: float | None


def list_choices(
    job: TrainStage,
    model: Any,
    blocks: int,
    pictures: Pictures,
    published_gb: Mapping[int, float],
) -> list[Choice]:
    """The estimates of a job.

    Args:
        model: The model on the meta device; its adapters are added here.
        blocks: Number of its vision blocks.
        published_gb: GB per GPU of the original run, by the first vision block that learns.
    """
    return [
        _estimate(job, model, start, pictures, published_gb.get(start))
        for start in _choose_starts(job, blocks)
    ]


def _choose_starts(job: TrainStage, blocks: int) -> list[int]:
    """First vision blocks that the estimate is made for: the job's own and, if the tower learns,
    others to choose from."""
    start = job.learning.vision_from
    if start is None:
        return [blocks]
    quarters = {blocks, blocks * 3 // 4, blocks // 2, blocks // 4, 0}
    return sorted(quarters | {start}, reverse=True)


def _estimate(
    job: TrainStage, model: Any, vision_from: int, pictures: Pictures, published_gb: float | None
) -> Choice:
    choose_learning(model, job.learning.replace(vision_from=vision_from), job.lora)
    counts = count_learning(model)
    weights = count_weights(model, job)

    def estimate(tokens: int, shape: Shape) -> dict[str, int]:
        return estimate_memory(shape, weights, _build_load(job, shape, vision_from, tokens, images))

    images = math.ceil(count_samples_at_once(job) * pictures.per_sample)
    return Choice(
        vision_from=vision_from,
        learning={name: learns for name, (learns, _) in counts.items() if name != "vision_unused"},
        components=estimate(job.expected.tokens, pictures.shape),
        longest=sum(estimate(job.max_tokens, pictures.largest).values()),
        published_gb=published_gb,
    )


def count_samples_at_once(job: TrainStage) -> int:
    """Number of samples in a worker's micro-batch; a small step gives it fewer than it could
    take."""
    return min(job.device_batch_size, math.ceil(job.batch_size / max(job.workers, 1)))


def _build_load(job: TrainStage, shape: Shape, vision_from: int, tokens: int, images: int) -> Load:
    learning, on_projector = job.learning, set(job.lora.targets) & set(PROJECTOR_TARGETS)
    vision_learns = vision_from < shape.vision_blocks or learning.vision_stem
    return Load(
        samples=count_samples_at_once(job),
        tokens=tokens,
        images=images,
        learnt=job.expected.learnt,
        vision_from=0 if learning.vision_stem else vision_from,
        projector=vision_learns
        or (learning.projector and (not job.lora.rank or bool(on_projector))),
        layer_inputs=count_layer_inputs(shape, job),
        number_bytes=_find_number_bytes(job),
        activation_checkpointing=job.activation_checkpointing,
    )


def _find_number_bytes(job: TrainStage) -> int:
    """Bytes of a number of the computation, by the rule by which workers choose its precision."""
    if job.precision == "auto":
        return BF16 if find_machine(job).is_gpu else FP32
    return BF16 if job.precision == "bf16" else FP32
