"""Scores of captions, each with its interval.

Knows no BLEU and no METEOR: they reward a detailed caption for being as short as its references.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.captions.figures import FigureUnits, Measured, measure_captions
from s4v_core.evaluation.captions.reading import Captions, read_captions, read_references
from s4v_core.evaluation.comparison import add_up, find_interval
from s4v_core.evaluation.score_files import SCORES

VERSION = 1
"""Version of the figures; raised when a change of theirs can move one."""


@dataclass(frozen=True, slots=True)
class CaptionFigure:
    """A figure, its 95 % interval, and the number of images (or windows) that it is over."""

    value: float
    low: float
    high: float
    n: int
    form: str

    def as_text(self) -> str:
        value, low, high = (self.form.format(one) for one in (self.value, self.low, self.high))
        return f"{value:>10}   {low} to {high}   n {self.n:,}"


@dataclass(frozen=True, slots=True)
class CaptionScore:
    """The figures of a set of captions."""

    captions: Captions
    measured: Measured
    figures: Mapping[str, CaptionFigure]

    def as_json(self) -> dict[str, Any]:
        """Everything as plain values, without a time, so that scoring twice gives one file."""
        about = self.measured
        return {
            "benchmark": "captions",
            "scorer": f"s4v caption figures version {VERSION}",
            "input": storage.base_name(self.captions.uri),
            "captions": about.n,
            "n_failed": about.failed,
            "n_without_reference": about.without_reference,
            "n_references_of_other_images": about.without_caption,
            "fit_by": self.captions.scorer or None,
            "figures": {
                name: {
                    "value": round(one.value, 4),
                    "low": round(one.low, 4),
                    "high": round(one.high, 4),
                    "n": one.n,
                }
                for name, one in self.figures.items()
            },
        }

    def as_text(self) -> str:
        """The figures as a table, with the counts of what did not fit."""
        about = self.measured
        width = max(map(len, self.figures), default=0)
        lines = [f"captions, {storage.base_name(self.captions.uri)}"]
        lines += [f"  {name:{width}} {one.as_text()}" for name, one in self.figures.items()]
        counts = {
            "images without a caption": about.failed,
            "captions without a reference": about.without_reference,
            "references of other images": about.without_caption,
        }
        told = "".join(f"; {number:,} {name}" for name, number in counts.items() if number)
        lines.append(f"  {about.n:,} captions{told}")
        if self.captions.scores:
            lines.append(f"  fit to the image by {self.captions.scorer or 'no name'}")
        return "\n".join(lines)


def score_captions(place: str, references: str | None) -> CaptionScore:
    """All figures of the captions of a run or of a file.

    Raises:
        InputError: A file is missing, empty or of another kind, or no reference is about any image.
    """
    captions = read_captions(place)
    known = read_references(references) if references else {}
    measured = measure_captions(captions, known)
    require_overlap(measured, captions, references)
    figures = {name: _find_figure(one) for name, one in measured.figures.items() if one.units}
    return CaptionScore(captions, measured, figures)


def require_overlap(measured: Measured, captions: Captions, references: str | None) -> None:
    """Refuse captions of which nothing can be said.

    Raises:
        InputError: There are none, or no reference is about any of their images.
    """
    if not measured.n:
        raise InputError(captions.uri, "holds no captions, only images without one")
    recall = measured.figures.get("object recall")
    if references and recall is not None and not recall.units:
        key = next(iter(captions.texts))
        problem = f"is about none of the images of the captions, such as {key!r}"
        raise InputError(references, problem)


def _find_figure(figure: FigureUnits) -> CaptionFigure:
    low, high = find_interval(figure.units)
    value, scale = add_up(figure.units), figure.scale
    return CaptionFigure(value * scale, low * scale, high * scale, len(figure.units), figure.form)


def write_caption_scores(output: str, scores: Sequence[CaptionScore]) -> str:
    """Write scores.json; the same captions give the same file.

    Raises:
        ConfigError: There is a file that no scoring wrote.
    """
    text = json.dumps({"scores": [one.as_json() for one in scores]}, indent=2, ensure_ascii=False)
    place = storage.Receipts(output, storage.join(output, SCORES))
    place.put(text.encode("utf-8", "replace"))
    return place.place
