"""Two sets of captions of the same images, figure by figure: whether their difference is noise."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from s4v_core.errors import ConfigError
from s4v_core.evaluation.benchmark import Unit
from s4v_core.evaluation.captions.figures import FIT, FigureUnits, measure_captions
from s4v_core.evaluation.captions.reading import Captions, read_captions, read_references
from s4v_core.evaluation.captions.score import require_overlap
from s4v_core.evaluation.comparison import Comparison, compare_apart, compare_units


@dataclass(frozen=True, slots=True)
class ComparedFigure:
    """One figure of two sets of captions."""

    name: str
    form: str
    scale: float
    found: Comparison

    def as_text(self) -> str:
        """The figure of both, the interval of the difference, and the verdict."""
        found, scale = self.found, self.scale
        first, second = (self.form.format(one * scale) for one in (found.first, found.second))
        signed = self.form.replace("{:", "{:+")
        change, low, high = (
            signed.format(one * scale)
            for one in (found.second - found.first, found.low, found.high)
        )
        verdict = "within noise" if found.is_noise else "beyond noise"
        verdict = "the same" if found.low == found.high == 0 else verdict
        return f"{first} and {second}, {change} ({low} to {high}): {verdict}"


def compare_captions(places: Sequence[str], references: str | None) -> tuple[int, list[str]]:
    """Compare two sets of captions on the images that both have.

    Returns:
        Number of these images, and a line for each figure.

    Raises:
        InputError: A file is missing, empty or of another kind, or no reference is about any image.
        ConfigError: The two have no image in common.
    """
    first, second = (read_captions(place) for place in places)
    known = read_references(references) if references else {}
    first, second = _align(first, second)
    sides = [measure_captions(one, known) for one in (first, second)]
    for measured, captions in zip(sides, (first, second), strict=True):
        require_overlap(measured, captions, references)
    compared = []
    for name, figure in sides[0].figures.items():
        other = sides[1].figures.get(name)
        is_alike = name != FIT or first.scorer == second.scorer
        if other and is_alike and (found := _compare(figure, other)):
            compared.append(ComparedFigure(name, figure.form, figure.scale, found))
    width = max(len(one.name) for one in compared)
    return len(first.texts), [f"{one.name:{width}}  {one.as_text()}" for one in compared]


def _align(first: Captions, second: Captions) -> tuple[Captions, Captions]:
    """Both sets with the images that they share, under the names that they have in the first."""
    places = {name: key for key, names in second.aliases.items() for name in reversed(names)}
    pairs = {
        key: place
        for key, names in first.aliases.items()
        if (place := next((places[name] for name in names if name in places), None)) is not None
    }
    if not pairs:
        keys = " and ".join(repr(next(iter(one.texts), "")) for one in (first, second))
        raise ConfigError(f"compare: the two have no image in common; they hold such as {keys}")
    return _take(first, {key: key for key in pairs}, first), _take(second, pairs, first)


def _take(captions: Captions, places: dict[str, str], named: Captions) -> Captions:
    return replace(
        captions,
        texts={key: captions.texts[place] for key, place in places.items()},
        aliases={key: named.aliases[key] for key in places},
        scores={
            key: captions.scores[place] for key, place in places.items() if place in captions.scores
        },
    )


def _compare(first: FigureUnits, second: FigureUnits) -> Comparison | None:
    """The comparison of a figure; None if it is about nothing on one side."""
    if not first.is_paired:
        has_both = first.units and second.units
        return compare_apart(first.units, second.units) if has_both else None
    sides = _pair(first.units, second.units), _pair(second.units, first.units)
    return compare_units(*sides, *sides) if sides[0] else None


def _pair(units: Sequence[Unit], others: Sequence[Unit]) -> list[Unit]:
    """The units that have counterparts."""
    keys = {unit.key for unit in others}
    return [unit for unit in units if unit.key in keys]
