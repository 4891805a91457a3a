"""Trains the demo painter on drawn scenes: first its text encoder on words, then all of it.

A run that is killed goes on from its newest checkpoint: every step's draws follow from its number.
"""

import logging
import os
import random
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler
from torch.nn import functional

from s4v_core.demo.painter_lessons import Lessons, draw_lessons, list_facts
from s4v_core.demo.painter_model import (
    SCHEDULE,
    build_pipeline,
    build_text_encoder,
    build_tokenizer,
    build_unet,
    cut_prompts,
)
from s4v_core.demo.painter_prompts import vary_scene_prompt
from s4v_core.demo.painter_stage import PainterStage
from s4v_core.demo.scenes import BACKGROUNDS, COLOURS, PLACES, SHAPES, SIZES, Scene, invent_scene
from s4v_core.errors import ConfigError

log = logging.getLogger(__name__)

_TEXT_BATCH, _TEXT_RATE = 64, 2e-3
_TEXT_SHARE = 0.3
"""Learning rate of the text encoder while it draws, as a share of the U-Net's."""

_EMPTY_SHARE = 0.1
"""Share of prompts that are left empty, so that guidance has something to lead away from."""

_WARMUP_STEPS, _FLAT_SHARE = 100, 0.4
_AVERAGING = 0.995
_LOG_EVERY = 100


@dataclass
class _Painter:
    """The parts that learn, and where the training stands."""

    tokenizer: Any
    text: Any
    unet: Any
    optimiser: torch.optim.Optimizer
    average: list[torch.Tensor] = field(default_factory=list)
    text_done: bool = False
    step: int = 0

    @property
    def parameters(self) -> list[torch.Tensor]:
        return [*self.unet.parameters(), *self.text.parameters()]


def train_painter(stage: PainterStage) -> Path:
    """Train a painter, or what is missing of it; returns the folder of its pipeline."""
    model = Path(stage.output) / "model"
    if (model / "model_index.json").is_file():
        return model
    torch.set_num_threads(stage.threads)
    torch.manual_seed(stage.seed)
    lessons = draw_lessons(stage.scenes, stage.seed)
    log.info("drew %d scenes", stage.scenes)
    painter = _start(stage, lessons)
    if not painter.text_done:
        _teach_words(painter, stage)
        _save(painter, stage)
    _teach_drawing(painter, lessons, stage)
    _export(painter, lessons, model)
    return model


def _start(stage: PainterStage, lessons: Lessons) -> _Painter:
    tokenizer = build_tokenizer()
    text, unet = build_text_encoder(tokenizer), build_unet(lessons.codec)
    groups = [
        {"params": list(unet.parameters()), "share": 1.0},
        {"params": list(text.parameters()), "share": _TEXT_SHARE},
    ]
    optimiser = torch.optim.AdamW(
        groups, stage.learning_rate, betas=(0.9, 0.99), weight_decay=0.01, fused=True
    )
    painter = _Painter(tokenizer, text, unet, optimiser)
    _restore(painter, stage)
    return painter


def _teach_words(painter: _Painter, stage: PainterStage) -> None:
    """Teach the text encoder to tell from a prompt what is where. A U-Net that has to teach it
    that itself binds attributes to the wrong shapes for very long."""
    text, width = painter.text, painter.text.config.hidden_size
    asked = torch.nn.Parameter(torch.randn(len(PLACES) + 1, width) * 0.1)
    attention = torch.nn.MultiheadAttention(width, 4, batch_first=True)
    sizes = (len(SIZES) + 1, len(COLOURS) + 1, len(SHAPES) + 1, len(BACKGROUNDS))
    heads = torch.nn.ModuleList(torch.nn.Linear(width, size) for size in sizes)
    learning = [asked, *attention.parameters(), *heads.parameters(), *text.parameters()]
    optimiser = torch.optim.AdamW(learning, _TEXT_RATE, weight_decay=0.01)
    chance = random.Random(f"words/{stage.seed}")
    for step in range(stage.text_steps):
        left = 1 - step / stage.text_steps
        _set_rate(optimiser, _TEXT_RATE * min(1, (step + 1) / 50) * min(1, left / 0.4))
        scenes = [invent_scene(chance) for _ in range(_TEXT_BATCH)]
        states = _read_prompts(painter, scenes, chance)
        found, _ = attention(asked.expand(_TEXT_BATCH, -1, -1), states, states)
        facts = list_facts(scenes)
        guesses = [head(found[:, :-1]) for head in heads[:3]]
        loss = functional.cross_entropy(heads[3](found[:, -1]), facts.backgrounds)
        for at, guess in enumerate(guesses):
            loss = loss + functional.cross_entropy(
                guess.flatten(0, 1), facts.places[..., at].flatten()
            )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        if (step + 1) % _LOG_EVERY == 0:
            hits = [
                (guess.argmax(-1) == facts.places[..., at]).float().mean()
                for at, guess in enumerate(guesses)
            ]
            right = float(torch.stack(hits).mean())
            log.info("words, step %d: loss %.3f, right %.3f", step + 1, loss.item(), right)
    painter.text_done = True


def _teach_drawing(painter: _Painter, lessons: Lessons, stage: PainterStage) -> None:
    kept = DDPMScheduler(**SCHEDULE).alphas_cumprod
    if not painter.average:
        painter.average = [one.detach().clone() for one in painter.parameters]
    started, losses = time.process_time(), []
    for step in range(painter.step, stage.steps):
        _set_rate(painter.optimiser, stage.learning_rate * _rate_at(step, stage.steps))
        losses.append(_draw_step(painter, lessons, stage, kept, step))
        painter.step = step + 1
        if painter.step % _LOG_EVERY == 0:
            mean = sum(losses[-_LOG_EVERY:]) / len(losses[-_LOG_EVERY:])
            used = time.process_time() - started
            log.info("drawing, step %d: loss %.4f, %.0f CPU-seconds", painter.step, mean, used)
        if painter.step % stage.save_every_steps == 0:
            _save(painter, stage)


def _draw_step(
    painter: _Painter, lessons: Lessons, stage: PainterStage, kept: torch.Tensor, step: int
) -> float:
    """One step on one batch; all of its draws follow from seed and step."""
    chance = random.Random(f"drawing/{stage.seed}/{step}")
    draws = torch.Generator().manual_seed(chance.getrandbits(48))
    size = stage.batch_size
    chosen = torch.randint(len(lessons.scenes), (size,), generator=draws)
    latents = lessons.latents[chosen]
    times = torch.randint(len(kept), (size,), generator=draws)
    noise = torch.randn(latents.shape, generator=draws)
    share = kept[times].view(-1, 1, 1, 1)
    noisy = share.sqrt() * latents + (1 - share).sqrt() * noise
    velocity = share.sqrt() * noise - (1 - share).sqrt() * latents
    scenes = [lessons.scenes[at] for at in chosen.tolist()]
    states = _read_prompts(painter, scenes, chance, _EMPTY_SHARE)
    noisy = noisy.contiguous(memory_format=torch.channels_last)
    loss = functional.mse_loss(painter.unet(noisy, times, states).sample, velocity)
    painter.optimiser.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(painter.parameters, 1.0)
    painter.optimiser.step()
    weight = 1 - min(_AVERAGING, (step + 1) / (step + 20))
    with torch.no_grad():
        torch._foreach_lerp_(painter.average, [p.detach() for p in painter.parameters], weight)
    return float(loss.item())


def _read_prompts(
    painter: _Painter, scenes: list[Scene], chance: random.Random, empty: float = 0.0
) -> torch.Tensor:
    """The text encoder's states for prompts about these scenes."""
    prompts = [
        "" if chance.random() < empty else vary_scene_prompt(scene, chance) for scene in scenes
    ]
    states: torch.Tensor = painter.text(cut_prompts(painter.tokenizer, prompts)).last_hidden_state
    return states


def _rate_at(step: int, steps: int) -> float:
    """Share of the highest learning rate: a short rise, a plateau, then down to zero."""
    left = (steps - step) / steps
    return min(1.0, (step + 1) / _WARMUP_STEPS) * min(1.0, left / (1 - _FLAT_SHARE))


def _set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    for group in optimiser.param_groups:
        group["lr"] = rate * group.get("share", 1.0)


def _save(painter: _Painter, stage: PainterStage) -> None:
    """Write a checkpoint; a kill leaves the one before, or the new one whole."""
    path = _place_checkpoint(stage)
    path.parent.mkdir(parents=True, exist_ok=True)
    state = {
        "settings": _identify(stage),
        "step": painter.step,
        "text": painter.text.state_dict(),
        "unet": painter.unet.state_dict(),
        "optimiser": painter.optimiser.state_dict(),
        "average": painter.average,
    }
    partial = path.with_suffix(".partial")
    torch.save(state, partial)
    os.replace(partial, path)


def _restore(painter: _Painter, stage: PainterStage) -> None:
    path = _place_checkpoint(stage)
    if not path.is_file():
        return
    state = torch.load(path, weights_only=True)
    if state["settings"] != _identify(stage):
        raise ConfigError(
            f"output: {stage.output} holds a painter that was begun with other settings; name "
            "another --output"
        )
    painter.text.load_state_dict(state["text"])
    painter.unet.load_state_dict(state["unet"])
    painter.optimiser.load_state_dict(state["optimiser"])
    painter.average, painter.step = state["average"], state["step"]
    painter.text_done = True
    log.info("resumed at step %d", painter.step)


def _identify(stage: PainterStage) -> dict[str, Any]:
    return stage.model_dump(exclude={"output", "threads", "save_every_steps", "scored"})


def _place_checkpoint(stage: PainterStage) -> Path:
    return Path(stage.output) / "checkpoint.pt"


def _export(painter: _Painter, lessons: Lessons, model: Path) -> None:
    """Write the averaged weights as a pipeline in half precision, whole or not at all."""
    with torch.no_grad():
        for one, mean in zip(painter.parameters, painter.average, strict=True):
            one.copy_(mean)
    pipeline = build_pipeline(lessons.codec, painter.tokenizer, painter.text, painter.unet)
    partial = model.with_name("model.partial")
    pipeline.to(torch.float16).save_pretrained(partial, safe_serialization=True)
    os.replace(partial, model)
