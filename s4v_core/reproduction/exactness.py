"""Preference between captions by exactness: which one says more that is so, less that is not."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Preference:
    """How often each of two sets of captions is preferred.

    Attributes:
        first, second, comparable: Numbers of pictures.
        right, said, true: Sentences of the second set that are so; all that it has; all that are
            so.
    """

    first: int
    second: int
    comparable: int
    right: int
    said: int
    true: int

    @property
    def total(self) -> int:
        return self.first + self.second + self.comparable


def read_captions(records: list[dict[str, Any]]) -> dict[str, str]:
    """The answers of conversations by the image that they are about, without its ending."""
    return {
        str(record["image"]).rpartition(".")[0] or str(record["image"]): str(
            record["conversations"][1]["value"]
        )
        for record in records
    }


def prefer(
    truth: Mapping[str, str], first: Mapping[str, str], second: Mapping[str, str]
) -> Preference:
    """Compare two captions of each picture with the exact one, sentence by sentence."""
    counts = [0, 0, 0]
    right = said = true = 0
    for image in sorted(truth.keys() & first.keys() & second.keys()):
        exact = split_sentences(truth[image])
        scores = [_score(split_sentences(one[image]), exact) for one in (first, second)]
        counts[0 if scores[0] > scores[1] else 1 if scores[1] > scores[0] else 2] += 1
        claims = split_sentences(second[image])
        right, said, true = right + len(claims & exact), said + len(claims), true + len(exact)
    return Preference(counts[0], counts[1], counts[2], right, said, true)


def _score(claims: set[str], exact: set[str]) -> int:
    """Sentences that are so, less those that are not."""
    return len(claims & exact) - len(claims - exact)


def split_sentences(text: str) -> set[str]:
    """The sentences of a caption."""
    return {part.strip() for part in text.split(".") if part.strip()}
