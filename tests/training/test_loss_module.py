"""From samples to the summed loss: packing, labels, the head in chunks, text without images."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from transformers import LlavaForConditionalGeneration

from s4v_core.model.normalisation import CLIP_NORMALISATION
from s4v_core.training.data.collation import Collator, MicroBatch, Sample
from s4v_core.training.stage import Learning
from s4v_core.training.worker import loss_module
from s4v_core.training.worker.fsdp_units import Switches
from s4v_core.training.worker.loss_module import LossModule, normalise_pixels
from s4v_core.training.worker.sharding import build_sharded_module
from s4v_core.training.worker.world import World, open_local_world

IMAGE_TOKENS, SIDE = 16, 56


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with open_local_world("cpu") as found:
        yield found


@pytest.fixture(scope="module")
def plain(checkpoint: Path) -> LlavaForConditionalGeneration:
    return LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)


def _built(checkpoint: Path, world: World, checkpointing: bool = True) -> LossModule:
    learning = Learning(vision_from=0)
    switches = Switches(activation_checkpointing=checkpointing)
    return build_sharded_module(checkpoint, learning, world.mesh, torch.float32, switches)


def _collator(plain: LlavaForConditionalGeneration) -> Collator:
    return Collator(plain.config.image_token_id, IMAGE_TOKENS, plain.config.pad_token_id, SIDE)


def _sample(number: int, length: int, image_id: int | None) -> Sample:
    chance = np.random.default_rng(number)
    ids = chance.integers(10, 400, length).astype(np.int32)
    ids[0] = 1
    if image_id is not None:
        ids[2] = image_id
    learnt = np.arange(length) >= length // 2
    pixels = chance.integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    return Sample(number, ids, learnt, pixels if image_id is not None else None)


def _loss(module: LossModule, batch: MicroBatch) -> torch.Tensor:
    loss: torch.Tensor = module(batch)
    return loss


def _reference(plain: LlavaForConditionalGeneration, collator: Collator, sample: Sample) -> float:
    """transformers' own forward, one sample alone, labels shifted by hand."""
    batch = collator.collate([sample])
    pixels = (
        normalise_pixels(batch.pixels_NSS3, CLIP_NORMALISATION)
        if sample.pixels is not None
        else None
    )
    logits = plain(input_ids=batch.ids_RT, pixel_values=pixels).logits[0, :-1]
    targets = batch.labels_RT[0, :-1]
    return float(F.cross_entropy(logits, targets, reduction="sum", ignore_index=-100))


def test_packed_samples_give_the_loss_of_separate_ones(
    checkpoint: Path, world: World, plain: LlavaForConditionalGeneration
) -> None:
    collator, image = _collator(plain), plain.config.image_token_id
    samples = [_sample(n, length, image) for n, length in enumerate((60, 20, 12, 9))]
    samples.append(_sample(9, 30, None))
    batch = collator.collate(samples)
    assert batch.ids_RT.shape[0] < len(samples), "something must share a row"
    apart = sum(_reference(plain, collator, sample) for sample in samples)
    assert float(_loss(_built(checkpoint, world), batch)) == pytest.approx(apart, rel=1e-5)
    assert batch.tokens == sum(batch.lengths) == 60 + 20 + 12 + 9 + 30 + 4 * 15


def test_several_images_of_a_sample_stand_where_their_ids_do(
    checkpoint: Path, world: World, plain: LlavaForConditionalGeneration
) -> None:
    collator, image = _collator(plain), plain.config.image_token_id
    chance = np.random.default_rng(3)
    pixels = chance.integers(0, 255, (3, SIDE, SIDE, 3), dtype=np.uint8)
    ids = chance.integers(10, 400, 40).astype(np.int32)
    ids[[0, 2, 3, 20]] = 1, image, image, image
    three = Sample(0, ids, np.arange(40) >= 21, pixels)
    others = [_sample(1, 60, image), _sample(2, 12, None)]
    whole = collator.collate([others[0], three, others[1]])
    assert (whole.images, whole.tokens) == (4, 40 + 60 + 12 + 4 * 15)
    apart = sum(_reference(plain, collator, sample) for sample in (three, *others))
    module = _built(checkpoint, world)
    assert float(_loss(module, whole)) == pytest.approx(apart, rel=1e-5)
    swapped = Sample(0, ids, three.learnt, pixels[::-1])
    other = float(_loss(module, collator.collate([others[0], swapped, others[1]])))
    assert other != pytest.approx(apart, rel=1e-5)


def test_gradients_are_those_of_separate_samples_with_and_without_checkpointing(
    checkpoint: Path, world: World, plain: LlavaForConditionalGeneration
) -> None:
    collator, image = _collator(plain), plain.config.image_token_id
    samples = [_sample(n, length, image) for n, length in enumerate((40, 18, 9))]
    found = []
    for checkpointing, groups in ((True, [samples]), (False, [[s] for s in samples])):
        module = _built(checkpoint, world, checkpointing)
        for group in groups:
            _loss(module, collator.collate(group)).backward()
        found.append(
            {n: p.grad.full_tensor() for n, p in module.named_parameters() if p.requires_grad}
        )
    for name, gradient in found[0].items():
        torch.testing.assert_close(gradient, found[1][name], atol=1e-4, rtol=1e-4)


def test_text_alone_gives_every_learning_parameter_a_gradient(
    checkpoint: Path, world: World, plain: LlavaForConditionalGeneration
) -> None:
    module, collator = _built(checkpoint, world), _collator(plain)
    batch = collator.collate([_sample(3, 20, None)])
    loss = _loss(module, batch)
    assert float(loss.detach()) == pytest.approx(
        _reference(plain, collator, _sample(3, 20, None)), rel=1e-5
    )
    loss.backward()
    assert all(p.grad is not None for p in module.parameters() if p.requires_grad)


def test_a_worker_without_samples_takes_part_and_adds_nothing(
    checkpoint: Path, world: World, plain: LlavaForConditionalGeneration
) -> None:
    module, batch = _built(checkpoint, world), _collator(plain).collate([])
    loss = _loss(module, batch)
    loss.backward()
    assert float(loss.detach()) == 0
    assert batch.learnt == batch.tokens == batch.images == 0
    assert all(
        float(p.grad.full_tensor().abs().max()) == 0 for p in module.parameters() if p.requires_grad
    )


def test_the_head_in_chunks_is_plain_cross_entropy(
    checkpoint: Path,
    world: World,
    plain: LlavaForConditionalGeneration,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    batch = _collator(plain).collate([_sample(n, 50, None) for n in range(3)])
    whole = float(_loss(_built(checkpoint, world), batch))
    monkeypatch.setattr(loss_module, "HEAD_CHUNK", 7)
    assert float(_loss(_built(checkpoint, world), batch)) == pytest.approx(whole, rel=1e-6)


def test_a_sample_whose_image_is_broken_teaches_nothing(
    plain: LlavaForConditionalGeneration,
) -> None:
    image = plain.config.image_token_id
    good, bad = _sample(1, 30, image), _sample(2, 30, image)
    bad = Sample(2, bad.ids, bad.learnt, bad.pixels, reason="truncated")
    batch = _collator(plain).collate([good, bad])
    assert batch.learnt == _collator(plain).collate([good]).learnt
    assert batch.skipped == ((2, "truncated"),)


def test_a_start_without_memory_repairs_its_buffers(
    checkpoint: Path, world: World, plain: LlavaForConditionalGeneration
) -> None:
    rebuilt = dict(_built(checkpoint, world).model.named_buffers())
    for name, buffer in plain.named_buffers():
        assert torch.equal(rebuilt[name], buffer), name
