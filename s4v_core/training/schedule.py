"""The learning rate as a function of the step alone, so a resumed run has nothing to restore."""

import math

from s4v_core.training.stage import Optimiser


def count_warmup_steps(steps: int, settings: Optimiser) -> int:
    """Number of steps in which the rate rises: ceil(0.03 x 4,871) = 147 in the paper's
    pretraining."""
    return math.ceil(settings.warmup_ratio * steps)


def compute_learning_rate(step: int, steps: int, settings: Optimiser) -> float:
    """The rate of a step, counted from 0: a linear rise to the highest rate, then half a cosine
    down to 0.

    This is transformers' cosine schedule, except that its first step has a rate of 0.
    """
    warmup = count_warmup_steps(steps, settings)
    if step < warmup:
        return settings.learning_rate * (step + 1) / (warmup + 1)
    progress = (step - warmup) / max(steps - warmup, 1)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
