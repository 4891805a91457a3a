"""The learning rate as a function of the step: nothing to restore."""

import math

from s4v_core.training.stage import Optimiser


def warmup_steps(steps: int, settings: Optimiser) -> int:
    """Steps in which the rate rises: ceil(0.03 x 4,871) = 147 in the paper's pretraining."""
    return math.ceil(settings.warmup_ratio * steps)


def learning_rate(step: int, steps: int, settings: Optimiser) -> float:
    """The rate of a step, counted from 0: a straight line up to the highest, a half cosine to 0.

    transformers' cosine schedule, but for its first step, which has a rate of 0 there.
    """
    warmup = warmup_steps(steps, settings)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - warmup, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
