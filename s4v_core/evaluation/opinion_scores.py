"""Q-Bench's third task: how well a model's preference for "good" over "poor" follows the opinions
of people about the quality of images. Not a column of the paper's table."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def rate_quality(rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """The model's score of each image: sigmoid(logit of good - logit of poor)."""
    margins = np.array([row["logit_good"] - row["logit_poor"] for row in rows], dtype=float)
    return [float(one) for one in 1 / (1 + np.exp(-margins))]


def correlate(scores: Sequence[float], opinions: Sequence[float]) -> tuple[float, float]:
    """Correlation by rank (SRCC; equal values share their mean rank) and by value (PLCC)."""
    by_rank = np.corrcoef(_rank(scores), _rank(opinions))[0, 1]
    return float(by_rank), float(np.corrcoef(scores, opinions)[0, 1])


def _rank(values: Sequence[float]) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    ranks: np.ndarray = (ends - (counts - 1) / 2)[place]
    return ranks
