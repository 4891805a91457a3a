"""Estimates for `--plan`: what would learn, memory per GPU, steps and time.

The model is built without weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch

from s4v_core.training.arithmetic.flops import find_peak_flops
from s4v_core.training.estimate.choices import (
    Choice,
    Pictures,
    count_samples_at_once,
    list_choices,
)
from s4v_core.training.estimate.data_counts import DataCounts, count_data
from s4v_core.training.estimate.devices import find_memory_gb, judge_fit
from s4v_core.training.estimate.footprint import NOT_MODELLED
from s4v_core.training.estimate.planned_model import PlannedModel, choose_model
from s4v_core.training.run_spec import count_samples, order_samples
from s4v_core.training.schedule import count_warmup_steps
from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.empty_model import build_empty_model

_GB = 1e9
_REMARKS = ("not modelled:", *(f"  - {part}" for part in NOT_MODELLED))


@dataclass(frozen=True, slots=True)
class Published:
    """Published figures of the original run, shown beside the estimate.

    Attributes:
        memory_gb: GB per GPU, by the first vision block that learns.
        utilisation: Model FLOP utilisation, by the source of the figure.
    """

    memory_gb: Mapping[int, float]
    utilisation: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Forecast:
    """The estimates for one job.

    Attributes:
        job: The job.
        assumed: Description of the model that was assumed.
        parameters: Number of parameters of the model.
        choices: Estimates for several choices of the first vision block that learns.
        steps: Number of steps of the run.
        samples: Number of samples of all these steps.
        warmup: Number of steps of the warm-up.
        flops_per_sample: Floating-point operations per sample of the expected length.
        hours: Hours that the run takes, by an assumed utilisation; empty if not known.
        data: Counts of the job's data; None if the job's expected sizes are assumed.
        images: A sentence about sizes of images that are assumed; empty if none are.
        fit: Whether the job fits the GPU.
    """

    job: TrainStage
    assumed: str
    parameters: int
    choices: list[Choice]
    steps: int
    samples: int
    warmup: int
    flops_per_sample: float
    hours: dict[str, float]
    data: DataCounts | None
    images: str
    fit: str

    def as_text(self) -> str:
        job = self.job
        lines = [
            f"model: {self.assumed}, {self.parameters:,} parameters",
            self.data.as_text() if self.data else "data: not read; the recipe's sizes are assumed",
            f"{self.steps} steps of {job.batch_size} samples ({job.expected.samples:,} samples, "
            f"{job.epochs} epochs), warm-up {self.warmup}; {max(job.workers, 1)} workers, "
            f"{count_samples_at_once(job)} samples at once, {job.rounds} rounds a step",
            f"{self.tokens:,} tokens in all steps, {self.learnt:,} of them learnt",
            f"{self.flops_per_sample / 1e12:.3g} TFLOP per sample of {job.expected.tokens} tokens",
        ]
        lines += [self.images] if self.images else []
        lines += [_describe_copies(job)] if job.replicas > 1 else []
        lines += [f"time: {hours:.1f} h at {where}" for where, hours in self.hours.items()]
        if not self.hours:
            lines.append("time: not known for this device; measure a few steps with --max-steps")
        lines.append(self.fit)
        return "\n".join([*lines, "", *self._format_table(), "", *_REMARKS])

    @property
    def tokens(self) -> int:
        """Number of tokens of all steps."""
        return self.samples * self.job.expected.tokens

    @property
    def learnt(self) -> int:
        """Number of tokens of all steps that carry loss."""
        return self.samples * self.job.expected.learnt

    @property
    def own(self) -> Choice:
        """The estimate for the job's own first vision block that learns."""
        start = self.job.learning.vision_from
        last = max(choice.vision_from for choice in self.choices)
        return next(c for c in self.choices if c.vision_from == (last if start is None else start))

    def _format_table(self) -> list[str]:
        own = self.own.vision_from
        head = [
            f"{'job: ' if choice.vision_from == own else ''}block {choice.vision_from}"
            for choice in self.choices
        ]
        groups = self.choices[0].learning
        table = [_format_line("learns from vision block", head)]
        table += [
            _format_line(f"  {name}", [f"{c.learning[name]:,}" for c in self.choices])
            for name in groups
        ]
        table.append(
            _format_line(
                "parameters that learn", [f"{sum(c.learning.values()):,}" for c in self.choices]
            )
        )
        table.append("")
        table.append(_format_line("GB per GPU", head))
        for name in self.choices[0].components:
            cells = [f"{choice.components[name] / _GB:.2f}" for choice in self.choices]
            table.append(_format_line(f"  {name}", cells))
        totals = [f"{sum(choice.components.values()) / _GB:.1f}" for choice in self.choices]
        table.append(_format_line("all of these", totals))
        table.append(
            _format_line(
                "  with the longest samples", [f"{c.longest / _GB:.1f}" for c in self.choices]
            )
        )
        if any(choice.published_gb for choice in self.choices):
            cells = [f"{choice.published_gb or '-'}" for choice in self.choices]
            table.append(_format_line("the paper's own run (Table 6)", cells))
        return table


def forecast_stage(
    job: TrainStage, published: Published | None = None, counts_data: bool = False
) -> Forecast:
    """Estimate a job. Its model does not need to exist, nor its data if they are not counted.

    Args:
        published: Figures of the original run, if the job is like it.
        counts_data: Whether the job's data are read, instead of assuming its expected sizes.

    Raises:
        ConfigError: The job would be refused.
        InputError: The data are missing, or are no conversations.
    """
    planned = choose_model(job)
    data = count_data(job, planned) if counts_data else None
    job = job.replace(expected=data.expected) if data else job
    pictures = _measure_pictures(job, planned, data)
    model = build_empty_model(planned.family.class_name, planned.config)
    parameters = sum(p.numel() for p in model.parameters())
    blocks, _ = planned.family.count_blocks(planned.config)
    memory_gb = published.memory_gb if published else {}
    choices = list_choices(job, model, blocks, pictures, memory_gb)
    order = order_samples(job, np.zeros(job.expected.samples, np.bool_))
    steps = min(order.steps, job.max_steps or order.steps)
    samples = count_samples(order, steps)
    flops = _count_flops(job, pictures)
    forecast = Forecast(
        job=job,
        assumed=planned.description,
        parameters=parameters,
        choices=choices,
        steps=steps,
        samples=samples,
        warmup=count_warmup_steps(steps, job.optimiser),
        flops_per_sample=flops,
        hours=_estimate_hours(job, flops * samples, published),
        data=data,
        images=_describe_images(planned, data, pictures),
        fit="",
    )
    return replace(forecast, fit=judge_fit(forecast.own.longest / _GB, _find_memory(job)))


def _measure_pictures(job: TrainStage, planned: PlannedModel, data: DataCounts | None) -> Pictures:
    """The sizes of the job's images: those that were read, or else the largest allowed."""
    family, config = planned.family, planned.config
    per_sample = data.images if data else 1.0
    largest = family.find_largest_image(job, config)
    found = data.image_tokens if data and data.image_tokens else largest
    # All images of a sample together are no longer than the longest sample.
    room = max(int(job.max_tokens / max(per_sample, 1.0)), 1)
    shapes = [family.read_shape(config, n) for n in (math.ceil(found), min(largest, room))]
    mean, longest = shapes
    assert mean
    assert longest
    return Pictures(per_sample, mean, longest)


def _describe_images(planned: PlannedModel, data: DataCounts | None, pictures: Pictures) -> str:
    """A sentence about the sizes of images that were assumed; empty if none were."""
    if not planned.has_own_sizes or (data and data.image_tokens):
        return ""
    return (
        f"images: not read; {pictures.shape.image_tokens} tokens each are assumed, the most that "
        "--pixels-max allows"
    )


def _count_flops(job: TrainStage, pictures: Pictures) -> float:
    """Operations of a sample: a frozen language model, adapters or not, still passes gradients on,
    and computes none of its own."""
    learning, shape = job.learning, pictures.shape
    passes = 3 if learning.language and not job.lora.rank else 2
    image = shape.count_image_flops(learning.vision_from, learning.vision_stem, learning.projector)
    text = shape.count_language_flops(job.expected.tokens)
    return passes * text + pictures.per_sample * image


def _find_memory(job: TrainStage) -> float | None:
    """GB of the job's GPU, or else of this machine's."""
    if job.accelerator:
        return find_memory_gb(job.accelerator)
    if job.device == "cpu" or not torch.cuda.is_available():
        return None
    return float(torch.cuda.get_device_properties(0).total_memory / _GB)


def _estimate_hours(job: TrainStage, flops: float, published: Published | None) -> dict[str, float]:
    """Hours at each published utilisation; empty if the device's peak is not known."""
    peak = find_peak_flops(job.accelerator or "") if published else None
    if not published or not peak:
        return {}
    at_one_flop = flops / 3600 / max(job.workers, 1)
    return {
        f"{share:.0%} utilisation ({source})": at_one_flop / (peak * share)
        for source, share in published.utilisation.items()
    }


def _describe_copies(job: TrainStage) -> str:
    shards = job.workers // job.replicas
    return f"{job.replicas} copies of the model, each sharded over {shards} workers"


def _format_line(label: str, cells: list[str]) -> str:
    return f"{label:<46}" + "".join(f"{cell:>16}" for cell in cells)
