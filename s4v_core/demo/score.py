"""Scores captions of drawn scenes against the scenes."""

from collections.abc import Iterable
from dataclasses import dataclass

from s4v_core.demo.texts import read_attributes


@dataclass(frozen=True, slots=True)
class Score:
    """How many captions are right.

    Attributes:
        scenes: Number of captions.
        exact: Captions that equal the exact caption letter by letter.
        attributes: Facts of the scenes: the background, and size, colour and shape at each place.
        right: Attributes that the captions give correctly.
    """

    scenes: int
    exact: int
    attributes: int
    right: int

    def as_text(self) -> str:
        return (
            f"{self.exact} of {self.scenes} captions are exactly right "
            f"({self.exact / max(self.scenes, 1):.1%}), "
            f"{self.right} of {self.attributes} attributes "
            f"({self.right / max(self.attributes, 1):.1%})"
        )


def score_captions(pairs: Iterable[tuple[str, str]]) -> Score:
    """Score (exact caption, model's caption) pairs.

    A shape that the model invents changes no attribute, but the caption is not exact.
    """
    counts = [0, 0, 0, 0]
    for exact, caption in pairs:
        truth, claimed = read_attributes(exact), read_attributes(caption)
        counts[0] += 1
        counts[1] += exact == caption
        counts[2] += len(truth)
        counts[3] += sum(claimed.get(name) == value for name, value in truth.items())
    return Score(*counts)
