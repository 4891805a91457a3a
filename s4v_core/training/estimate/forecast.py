"""Estimates for `--plan`: what would learn, memory per GPU, steps and time.

The model is built without weights.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from transformers import LlavaForConditionalGeneration

from s4v_core.model.learning import count_learning, set_learning
from s4v_core.training.data.tokens import Encoder
from s4v_core.training.estimate.data_counts import DataCounts, count_data
from s4v_core.training.estimate.devices import find_memory_gb, judge_fit
from s4v_core.training.estimate.flops import Shape, find_peak_flops
from s4v_core.training.estimate.footprint import NOT_MODELLED, Load, Weights, estimate_memory
from s4v_core.training.estimate.planned_model import choose_model
from s4v_core.training.estimate.shapes import read_shape
from s4v_core.training.schedule import count_warmup_steps
from s4v_core.training.stage import TrainStage

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


@dataclass(frozen=True, slots=True)
class Forecast:
    """The estimates for one job.

    Attributes:
        job: The job.
        assumed: Description of the model that was assumed.
        parameters: Number of parameters of the model.
        choices: Estimates for several choices of the first vision block that learns.
        steps: Number of steps of the run.
        warmup: Number of steps of the warm-up.
        flops_per_sample: Floating-point operations per sample of the expected length.
        hours: Hours that the run takes, by an assumed utilisation; empty if not known.
        data: Counts of the job's data; None if the job's expected sizes are assumed.
        fit: Whether the job fits the GPU.
    """

    job: TrainStage
    assumed: str
    parameters: int
    choices: list[Choice]
    steps: int
    warmup: int
    flops_per_sample: float
    hours: dict[str, float]
    data: DataCounts | None
    fit: str

    def as_text(self) -> str:
        job = self.job
        lines = [
            f"model: {self.assumed}, {self.parameters:,} parameters",
            self.data.as_text() if self.data else "data: not read; the recipe's sizes are assumed",
            f"{self.steps} steps of {job.batch_size} samples ({job.expected.samples:,} samples, "
            f"{job.epochs} epochs), warm-up {self.warmup}; {max(job.workers, 1)} workers, "
            f"{job.device_batch_size} samples at once, {job.rounds} rounds a step",
            f"{self.flops_per_sample / 1e12:.3g} TFLOP per sample of {job.expected.tokens} tokens",
        ]
        lines += [f"time: {hours:.1f} h at {where}" for where, hours in self.hours.items()]
        if not self.hours:
            lines.append("time: not known for this device; measure a few steps with --max-steps")
        lines.append(self.fit)
        return "\n".join([*lines, "", *self._format_table(), "", *_REMARKS])

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
        InputError: The data are missing, or are no conversations.
    """
    config, assumed, tokenizer = choose_model(job)
    shape = read_shape(config)
    encoder = tokenizer and Encoder(
        tokenizer, config.image_token_index, shape.image_tokens, job.max_tokens
    )
    data = count_data(job, encoder) if counts_data else None
    job = job.replace(expected=data.expected) if data else job
    images = data.images if data else 1.0
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    starts = _choose_starts(job, config.vision_config.num_hidden_layers)
    choices = [_estimate_choice(job, model, shape, start, images, published) for start in starts]
    steps_per_epoch = -(-job.expected.samples // job.batch_size)
    steps = min(steps_per_epoch * job.epochs, job.max_steps or steps_per_epoch * job.epochs)
    flops = _count_flops(job, shape, images)
    forecast = Forecast(
        job=job,
        assumed=assumed,
        parameters=sum(p.numel() for p in model.parameters()),
        choices=choices,
        steps=steps,
        warmup=count_warmup_steps(steps, job.optimiser),
        flops_per_sample=flops,
        hours=_estimate_hours(job, flops * steps * job.batch_size, published),
        data=data,
        fit="",
    )
    return replace(forecast, fit=judge_fit(forecast.own.longest / _GB, _find_memory(job)))


def _choose_starts(job: TrainStage, blocks: int) -> list[int]:
    """First vision blocks that the estimate is made for: the job's own and, if the tower learns,
    others to choose from."""
    start = job.learning.vision_from
    if start is None:
        return [blocks]
    quarters = {blocks, blocks * 3 // 4, blocks // 2, blocks // 4, 0}
    return sorted(quarters | {start}, reverse=True)


def _count_flops(job: TrainStage, shape: Shape, images: float) -> float:
    """Operations of a sample: a frozen language model still passes gradients on, and computes none
    of its own."""
    learning = job.learning
    passes = 3 if learning.language else 2
    image = shape.count_image_flops(learning.vision_from, learning.vision_stem, learning.projector)
    return passes * shape.count_language_flops(job.expected.tokens) + images * image


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


def _estimate_choice(
    job: TrainStage,
    model: LlavaForConditionalGeneration,
    shape: Shape,
    vision_from: int,
    images: float,
    published: Published | None,
) -> Choice:
    learning = job.learning
    set_learning(model, vision_from, learning.vision_stem, learning.projector, learning.language)
    counts = count_learning(model)
    learnt = sum(learns for learns, _ in counts.values())
    whole = sum(every for _, every in counts.values())
    parts = sorted(sum(p.numel() for p in m.parameters()) for m in _list_large_units(model))
    weights = Weights(learnt, whole - learnt, sum(parts[-2:]))
    workers = max(job.workers, 1)

    def estimate(tokens: int) -> dict[str, int]:
        load = Load(
            samples=job.device_batch_size,
            tokens=tokens,
            images=math.ceil(job.device_batch_size * images),
            learnt=job.expected.learnt,
            vision_from=vision_from,
            activation_checkpointing=job.activation_checkpointing,
        )
        return estimate_memory(shape, weights, load, workers)

    return Choice(
        vision_from=vision_from,
        learning={name: learns for name, (learns, _) in counts.items() if name != "vision_unused"},
        components=estimate(job.expected.tokens),
        longest=sum(estimate(job.max_tokens).values()),
        published_gb=published.memory_gb.get(vision_from) if published else None,
    )


def _list_large_units(model: LlavaForConditionalGeneration) -> list[torch.nn.Module]:
    """The FSDP units of the language model, which are the largest ones."""
    inner = model.model
    return [*inner.language_model.layers, inner.language_model.embed_tokens, model.lm_head]


def _format_line(label: str, cells: list[str]) -> str:
    return f"{label:<46}" + "".join(f"{cell:>16}" for cell in cells)
