"""Share of padding in training, by the order of samples and their split over workers."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from s4v_core.recipes import FINETUNE
from s4v_core.training.data.collation import Collator, Sample
from s4v_core.training.data.order import Numbers, Order, split_over_workers

IMAGE_TOKENS, AROUND_TOKENS = 576, 60
"""Tokens of each picture, and of the system text and the names before the turns."""
TEXT_ALONE, CAPTIONS = 0.06, 0.50
"""Shares of all samples; the others are short answers about pictures. 40,688 of the 665,058
samples of the paper's finetuning are text alone."""


def draw_lengths(count: int, seed: int = 0) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Draw the number of tokens of each sample, and whether it has a picture.

    Captions have 190 +- 60 tokens, as in ShareGPT4V; short answers to questions 10 to 40;
    conversations without a picture e^(5.7 +- 0.8), half of them more than 300.
    """
    chance = np.random.default_rng(seed)
    kind = chance.random(count)
    captions = chance.normal(190, 60, count).clip(20)
    answers = chance.integers(10, 40, count, endpoint=True)
    talks = chance.lognormal(5.7, 0.8, count).clip(20)
    written = np.where(kind < CAPTIONS, captions, answers)
    has_image = kind < 1 - TEXT_ALONE
    tokens = AROUND_TOKENS + np.where(has_image, written + IMAGE_TOKENS, talks)
    return tokens.astype(np.int64).clip(max=FINETUNE["paper"].max_tokens), has_image


def compute_dealt_padding(
    lengths: NDArray[np.int64], has_image: NDArray[np.bool_], grouped: bool, workers: int
) -> float:
    """Padding of one epoch as the product splits and packs it, with the paper's batches.

    Few workers do a step in several rounds, each with samples of similar length; with as many
    workers as micro-batches there is one round, in which every worker gets long and short samples.
    """
    size = FINETUNE["paper"].device_batch_size
    collator = Collator(image_id=-1, image_tokens=1, pad_id=0, side_px=1)
    tokens = places = 0
    for step in _draw_steps(has_image, grouped):
        shares = split_over_workers(step, lengths[step], workers, size)
        for part in (part for share in shares for part in share):
            batch = collator.collate([_build_sample(number, lengths[number]) for number in part])
            tokens, places = tokens + batch.tokens, places + batch.places
    return 1 - tokens / places


def compute_drawn_padding(
    lengths: NDArray[np.int64], has_image: NDArray[np.bool_], grouped: bool
) -> float:
    """Padding of the same steps if samples stay in drawn order, each in its own row."""
    size = FINETUNE["paper"].device_batch_size
    tokens = places = 0
    for step in _draw_steps(has_image, grouped):
        for at in range(0, len(step), size):
            part = lengths[step[at : at + size]]
            tokens, places = tokens + int(part.sum()), places + len(part) * int(part.max())
    return 1 - tokens / places


def _draw_steps(has_image: NDArray[np.bool_], grouped: bool) -> Iterator[Numbers]:
    order = Order(has_image, FINETUNE["paper"].batch_size, seed=0, grouped=grouped)
    yield from order.draw_epoch(0)


def _build_sample(number: int, length: int) -> Sample:
    return Sample(number, np.zeros(length, np.int32), np.zeros(length, np.bool_), None)
