"""Training steps a second time, by other means: transformers' own forward pass, one sample at a
time, no sharding, and AdamW written out."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration

from s4v_core.images.policy import Framing
from s4v_core.training.data.collation import Sample
from s4v_core.training.data.loader import StepReader
from s4v_core.training.data.samples import fetch_samples
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.schedule import compute_learning_rate

_MEAN = torch.tensor((0.48145466, 0.4578275, 0.40821073))
_STD = torch.tensor((0.26862954, 0.26130258, 0.27577711))


@dataclass
class Recomputed:
    """Loss and gradient norm of each step, and the weights behind the last one."""

    losses: list[float]
    norms: list[float]
    weights: dict[str, torch.Tensor]


def list_samples(spec: RunSpec, step: int) -> Iterator[Sample]:
    """The samples of a step in the table's form, images read."""
    reader = StepReader(
        samples=fetch_samples(spec.samples, spec.samples_sha256),
        order=spec.order,
        collator=spec.collator,
        framing=Framing(spec.job.image_mode, spec.collator.side_px),
        worker=0,
        workers=1,
        device_batch_size=1,
    )
    for number in spec.order.draw_step(step):
        yield from reader._read([number])


def sum_loss(
    model: LlavaForConditionalGeneration, sample: Sample, image_tokens: int
) -> tuple[torch.Tensor, int]:
    """Summed cross-entropy of one sample alone, and its number of learnt tokens."""
    image_id = model.config.image_token_id
    ids, targets = [], []
    for token, learnt in zip(sample.ids.tolist(), sample.learnt.tolist(), strict=True):
        repeats = image_tokens if token == image_id else 1
        ids += [token] * repeats
        targets += [token if learnt and sample.reason is None else -100] * repeats
    pixels = None
    if sample.pixels is not None:
        scaled = (torch.from_numpy(sample.pictures[0].copy()).float() / 255 - _MEAN) / _STD
        pixels = scaled.permute(2, 0, 1)[None]
    logits = model(input_ids=torch.tensor([ids]), pixel_values=pixels).logits[0, :-1]
    wanted = torch.tensor(targets[1:])
    loss = F.cross_entropy(logits, wanted, reduction="sum", ignore_index=-100)
    return loss, int((wanted != -100).sum())


def recompute(spec: RunSpec, steps: int, learns: tuple[str, ...]) -> Recomputed:
    """Make the first steps of a run again.

    Args:
        learns: Parts of the names of the parameters that learn.
    """
    settings = spec.job.optimiser
    model = LlavaForConditionalGeneration.from_pretrained(spec.model, dtype=torch.float32).train()
    learning = {}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(part in name for part in learns))
        if parameter.requires_grad:
            learning[name] = parameter
    moments = {n: (torch.zeros_like(p), torch.zeros_like(p)) for n, p in learning.items()}
    found = Recomputed([], [], {})
    for step in range(steps):
        parts = [
            sum_loss(model, sample, spec.collator.image_tokens)
            for sample in list_samples(spec, step)
        ]
        learnt = max(sum(count for _, count in parts), 1)
        loss = torch.stack([part for part, _ in parts]).sum() / learnt
        loss.backward()
        grads = {n: p.grad if p.grad is not None else 0 * p for n, p in learning.items()}
        norm = torch.sqrt(sum((g.double() ** 2).sum() for g in grads.values()))
        scale = min(1.0, settings.clip / (float(norm) + 1e-6))
        rate = compute_learning_rate(step, spec.steps, settings)
        with torch.no_grad():
            for name, parameter in learning.items():
                gradient, (first, second) = grads[name] * scale, moments[name]
                first.mul_(settings.beta1).add_(gradient * (1 - settings.beta1))
                second.mul_(settings.beta2).add_(gradient**2 * (1 - settings.beta2))
                if parameter.dim() > 1:
                    parameter.mul_(1 - rate * settings.weight_decay)
                mean = first / (1 - settings.beta1 ** (step + 1))
                square = second / (1 - settings.beta2 ** (step + 1))
                parameter.sub_(rate * mean / (square.sqrt() + settings.eps))
                parameter.grad = None
        found.losses.append(float(loss.detach()))
        found.norms.append(float(norm))
    found.weights = {n: p.detach().clone() for n, p in model.named_parameters()}
    return found
