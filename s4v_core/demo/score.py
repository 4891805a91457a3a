"""How right captions of drawn scenes are, against what was drawn."""

from collections.abc import Iterable
from dataclasses import dataclass

from s4v_core.demo.texts import attributes


@dataclass(frozen=True, slots=True)
class Score:
    """Attributes:
    scenes, exact: Captions, and those that are right to the letter.
    attributes, right: What there was to say (background; size, colour and shape at each place),
        and what was said so.
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


def score(pairs: Iterable[tuple[str, str]]) -> Score:
    """Of (caption as drawn, caption as said) pairs. A shape that is not there is no attribute, but
    such a caption is not exact."""
    counts = [0, 0, 0, 0]
    for drawn, said in pairs:
        truth, claimed = attributes(drawn), attributes(said)
        counts[0] += 1
        counts[1] += drawn == said
        counts[2] += len(truth)
        counts[3] += sum(claimed.get(name) == value for name, value in truth.items())
    return Score(*counts)
