"""`--plan`: what would learn, memory per GPU, steps and time. Builds the model without weights."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import LlavaConfig, LlavaForConditionalGeneration

from s4v_core.demo.texts import PHRASES, build_corpus
from s4v_core.model.builders import (
    DEMO_VOCABULARY,
    build_demo_config,
    build_sharegpt4v_7b_config,
    build_tokenizer,
)
from s4v_core.model.learning import count_learning, set_learning
from s4v_core.training.estimate.flops import Shape, peak_flops
from s4v_core.training.estimate.footprint import NOT_MODELLED, Load, Weights, footprint
from s4v_core.training.estimate.shapes import shape_of
from s4v_core.training.schedule import warmup_steps
from s4v_core.training.stage import NEW_DEMO, TrainStage

GB = 1e9


@dataclass(frozen=True, slots=True)
class Published:
    """What is known of the original run, to stand beside the estimate.

    Attributes:
        memory_gb: Per GPU, by the first vision block that learns.
        utilisation: Model FLOP utilisation, by where it is known from.
    """

    memory_gb: Mapping[int, float]
    utilisation: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Row:
    """One choice of what learns.

    Attributes:
        learning: Parameters that learn, by group.
        components: Bytes per GPU at samples of the expected length.
        longest: Bytes per GPU in all where every sample is as long as it may be.
    """

    vision_from: int
    learning: dict[str, int]
    components: dict[str, int]
    longest: int
    published_gb: float | None


@dataclass(frozen=True, slots=True)
class Forecast:
    """Of one job; `rows` of all choices, `chosen` of its own."""

    job: TrainStage
    assumed: str
    parameters: int
    rows: list[Row]
    steps: int
    warmup: int
    flops_per_sample: float
    hours: dict[str, float]

    def as_text(self) -> str:
        job = self.job
        lines = [
            f"model: {self.assumed}, {self.parameters:,} parameters",
            f"{self.steps} steps of {job.batch_size} samples ({job.expected.samples:,} samples, "
            f"{job.epochs} epochs), warm-up {self.warmup}; {max(job.workers, 1)} workers, "
            f"{job.device_batch_size} samples at once, {job.rounds} rounds a step",
            f"{self.flops_per_sample / 1e12:.3g} TFLOP per sample of {job.expected.tokens} tokens",
        ]
        lines += [f"time: {hours:.1f} h at {where}" for where, hours in self.hours.items()]
        if not self.hours:
            lines.append("time: not known for this device; a few steps tell (--max-steps)")
        return "\n".join([*lines, "", *self._table(), "", *self._remarks()])

    def _table(self) -> list[str]:
        head = [f"block {row.vision_from}" for row in self.rows]
        groups = self.rows[0].learning
        table = [_line("learns from vision block", head)]
        table += [
            _line(f"  {name}", [f"{r.learning[name]:,}" for r in self.rows]) for name in groups
        ]
        table.append(
            _line("parameters that learn", [f"{sum(r.learning.values()):,}" for r in self.rows])
        )
        table.append("")
        table.append(_line("GB per GPU", head))
        for name in self.rows[0].components:
            cells = [f"{row.components[name] / GB:.2f}" for row in self.rows]
            table.append(_line(f"  {name}", cells))
        totals = [f"{sum(row.components.values()) / GB:.1f}" for row in self.rows]
        table.append(_line("all of these", totals))
        table.append(
            _line("  with the longest samples", [f"{r.longest / GB:.1f}" for r in self.rows])
        )
        if any(row.published_gb for row in self.rows):
            cells = [f"{row.published_gb or '-'}" for row in self.rows]
            table.append(_line("the paper's own run (Table 6)", cells))
        return table

    def _remarks(self) -> list[str]:
        return ["not modelled:", *(f"  - {part}" for part in NOT_MODELLED)]


def forecast(job: TrainStage, published: Published | None = None) -> Forecast:
    """Of a job whose data and model need not be there."""
    config, assumed = _config(job)
    shape = shape_of(config)
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    blocks = config.vision_config.num_hidden_layers
    rows = [
        _row(job, model, shape, start, published)
        for start in (blocks, blocks * 3 // 4, blocks // 2, blocks // 4, 0)
    ]
    steps_per_epoch = -(-job.expected.samples // job.batch_size)
    steps = min(steps_per_epoch * job.epochs, job.max_steps or steps_per_epoch * job.epochs)
    learning, expected = job.learning, job.expected
    flops = 3 * shape.language_flops(expected.tokens) + shape.image_flops(
        learning.vision_from, learning.vision_stem, learning.projector
    )
    peak = peak_flops(job.accelerator or "") if published else None
    whole = flops * steps * job.batch_size / 3600 / max(job.workers, 1)
    hours = {}
    if published and peak:
        for where, share in published.utilisation.items():
            hours[f"{share:.0%} utilisation ({where})"] = whole / (peak * share)
    return Forecast(
        job=job,
        assumed=assumed,
        parameters=sum(p.numel() for p in model.parameters()),
        rows=rows,
        steps=steps,
        warmup=warmup_steps(steps, job.optimiser),
        flops_per_sample=flops,
        hours=hours,
    )


def _row(
    job: TrainStage,
    model: LlavaForConditionalGeneration,
    shape: Shape,
    vision_from: int,
    published: Published | None,
) -> Row:
    learning = job.learning
    set_learning(model, vision_from, learning.vision_stem, learning.projector, learning.language)
    counts = count_learning(model)
    learnt = sum(learns for learns, _ in counts.values())
    whole = sum(every for _, every in counts.values())
    parts = sorted(sum(p.numel() for p in m.parameters()) for m in _sharded_parts(model))
    weights = Weights(learnt, whole - learnt, sum(parts[-2:]))
    workers = max(job.workers, 1)

    def memory(tokens: int) -> dict[str, int]:
        load = Load(
            samples=job.device_batch_size,
            tokens=tokens,
            images=job.device_batch_size,
            learnt=job.expected.learnt,
            vision_from=vision_from,
            activation_checkpointing=job.activation_checkpointing,
        )
        return footprint(shape, weights, load, workers)

    return Row(
        vision_from=vision_from,
        learning={name: learns for name, (learns, _) in counts.items() if name != "vision_unused"},
        components=memory(job.expected.tokens),
        longest=sum(memory(job.max_tokens).values()),
        published_gb=published.memory_gb.get(vision_from) if published else None,
    )


def _sharded_parts(model: LlavaForConditionalGeneration) -> list[torch.nn.Module]:
    inner = model.model
    return [*inner.language_model.layers, inner.language_model.embed_tokens, model.lm_head]


def _config(job: TrainStage) -> tuple[LlavaConfig, str]:
    if job.model == NEW_DEMO:
        return build_demo_config(
            build_tokenizer(build_corpus(), DEMO_VOCABULARY, PHRASES)
        ), "the demo's shape"
    if (Path(job.model) / "config.json").exists():
        return LlavaConfig.from_pretrained(job.model), job.model
    return (
        build_sharegpt4v_7b_config(),
        f"the shape of ShareGPT4V-7B ({job.model} is not there yet)",
    )


def _line(label: str, cells: list[str]) -> str:
    return f"{label:<46}" + "".join(f"{cell:>16}" for cell in cells)
