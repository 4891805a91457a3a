"""Figures of captions, each the ratio of two sums over images, so that all have an interval."""

import hashlib
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from s4v_core.evaluation.benchmark import Unit
from s4v_core.evaluation.captions.objects import ObjectFinder
from s4v_core.evaluation.captions.reading import Captions, Reference, find_reference
from s4v_core.evaluation.lemmas import split_words

WINDOW = 50
"""Words of a window: the share of different words falls with the length of a text."""
SET_WINDOW = 200
"""Words of a window over several captions."""
_GROUP = 4
FIT = "fit to the image"
"""Figure of a run that was scored: CLIPScore, or the probability of a SigLIP."""

_OPENING = re.compile(
    r"(in )?(the|this|an?) (given |provided |presented )?"
    r"(image|picture|photo|photograph|scene|snapshot)\b",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class FigureUnits:
    """A figure before it is added up: 100 * credits / credits to be had, times `scale`.

    Attributes:
        is_paired: Whether two sets of captions of the same images have the same units.
    """

    units: list[Unit]
    form: str = "{:.2f} %"
    scale: float = 1.0
    is_paired: bool = True


@dataclass(slots=True)
class Measured:
    """Captions with their references.

    Attributes:
        n: Images with a caption; `failed`: those without one.
        without_reference: Images of captions that no reference is about.
        without_caption: Images of references that are not among the captions' images. They count
            nowhere; an image whose caption failed counts as one that names nothing.
    """

    n: int = 0
    failed: int = 0
    without_reference: int = 0
    without_caption: int = 0
    figures: dict[str, FigureUnits] = field(default_factory=dict)


def measure_captions(captions: Captions, references: Mapping[str, Reference]) -> Measured:
    """All figures of a set of captions.

    Args:
        references: By every name of their image; empty if there are none.
    """
    keys = sorted(captions.texts)
    texts = {key: text for key in keys if (text := captions.texts.get(key)) is not None}
    found = Measured(n=len(texts), failed=len(keys) - len(texts))
    found.figures |= _measure_texts(texts)
    if references:
        _measure_objects(found, captions, references, keys)
    scores = [Unit(key, captions.scores[key]) for key in texts if key in captions.scores]
    if scores:
        found.figures[FIT] = FigureUnits(scores, "{:.4f}", 0.01)
    return found


def _measure_texts(texts: Mapping[str, str]) -> dict[str, FigureUnits]:
    words = {key: split_words(text) for key, text in texts.items()}
    copies = Counter(" ".join(one) for one in words.values())
    groups = {key: list(zip(*(one[n:] for n in range(_GROUP)), strict=False))
              for key, one in words.items()}  # fmt: skip
    openings = {key: _OPENING.match(text.lstrip()) is not None for key, text in texts.items()}
    return {
        "words per caption": FigureUnits(
            [Unit(key, len(one)) for key, one in words.items()], "{:.1f}", 0.01
        ),
        f"different words in {WINDOW}": FigureUnits(
            [Unit(key, _measure_variety(one)) for key, one in words.items() if one]
        ),
        f"different words in {SET_WINDOW} of several captions": FigureUnits(
            list(_cut_windows(words)), is_paired=False
        ),
        f"repeated groups of {_GROUP} words": FigureUnits(
            [Unit(key, len(one) - len(set(one)), len(one)) for key, one in groups.items() if one]
        ),
        "captions that another image has, too": FigureUnits(
            [Unit(key, float(copies[" ".join(one)] > 1)) for key, one in words.items()]
        ),
        'openings like "The image shows"': FigureUnits(
            [Unit(key, float(is_one)) for key, is_one in openings.items()]
        ),
    }


def _measure_variety(words: Sequence[str]) -> float:
    """Mean share of different words in all windows of a text."""
    size = min(WINDOW, len(words))
    counts = Counter(words[:size])
    total = len(counts)
    for start in range(len(words) - size):
        counts[words[start + size]] += 1
        counts[words[start]] -= 1
        if not counts[words[start]]:
            del counts[words[start]]
        total += len(counts)
    return total / size / (len(words) - size + 1)


def _cut_windows(words: Mapping[str, Sequence[str]]) -> Iterator[Unit]:
    """Windows over the captions, in an order that has nothing to do with the images."""
    order = sorted(words, key=lambda key: hashlib.sha256(key.encode("utf-8", "replace")).digest())
    line = [word for key in order for word in words[key]]
    for start in range(0, len(line) - SET_WINDOW + 1, SET_WINDOW):
        yield Unit(str(start), len(set(line[start : start + SET_WINDOW])), SET_WINDOW)


def _measure_objects(
    found: Measured, captions: Captions, references: Mapping[str, Reference], keys: Sequence[str]
) -> None:
    """Objects that captions name, against those that references name.

    An object that no reference lists for any image is none that references look for, and does not
    count.
    """
    every = {id(one): one for one in references.values()}
    finder = ObjectFinder(words for one in every.values() for words in one.objects)
    listed = {n: {finder.name(w[0]) or w[0] for w in one.objects} for n, one in every.items()}
    told = {n: {name for text in one.captions for name in finder.find(text)}
            for n, one in every.items()}  # fmt: skip
    known = set().union(*(listed if any(listed.values()) else told).values())
    precision, recall, wrong = list[Unit](), list[Unit](), list[Unit]()
    seen = set[int]()
    for key in keys:
        reference = find_reference(captions.aliases.get(key, (key,)), references)
        text = captions.texts.get(key)
        if reference is None:
            found.without_reference += text is not None
            continue
        seen.add(id(reference))
        shown = (listed[id(reference)] | told[id(reference)]) & known
        named = finder.find(text or "") & known
        right = len(named & shown)
        precision.append(Unit(key, right, len(named)))
        recall.append(Unit(key, right, len(shown)))
        wrong.append(Unit(key, float(right < len(named))))
    found.without_caption = sum(one not in seen for one in every)
    found.figures["object precision"] = FigureUnits(precision)
    found.figures["object recall"] = FigureUnits(recall)
    found.figures["captions with a wrong object"] = FigureUnits(wrong)
