"""Figures from marks: percentages over questions, over groups, and by label."""

from collections.abc import Callable, Iterable, Sequence

from s4v_core.evaluation.benchmark import Figure, Kind, Marked, Unit


def percent(credits: Iterable[float]) -> Figure:
    """100 times the mean; 0 of nothing."""
    values = list(credits)
    return Figure(100 * sum(values) / len(values) if values else 0.0, len(values))


def drop_failed_grades(marked: Sequence[Marked]) -> list[Marked]:
    """The marked questions without those whose judge gave no grade; a question without an answer
    stays, as a wrong one."""
    return [one for one in marked if one.mark.is_parsed or one.text is None]


def accuracy(marked: Sequence[Marked], kind: Kind) -> Figure:
    """100 times the mean credit of a question."""
    return percent(one.mark.credit(kind) for one in marked)


def split_by(
    marked: Sequence[Marked], find_label: Callable[[Marked], str]
) -> dict[str, list[Marked]]:
    """The marked questions by a label, labels sorted; those without one are left out."""
    parts: dict[str, list[Marked]] = {}
    for one in marked:
        label = find_label(one)
        if label:
            parts.setdefault(label, []).append(one)
    return dict(sorted(parts.items()))


def accuracy_by(marked: Sequence[Marked], kind: Kind, label: str) -> dict[str, Figure]:
    """`accuracy` for each value of a label."""
    parts = split_by(marked, lambda one: one.question.labels.get(label, ""))
    return {f"{label}: {value}": accuracy(part, kind) for value, part in parts.items()}


def group_up(marked: Sequence[Marked]) -> dict[str, list[Marked]]:
    """The marked questions by their group, in the order of the questions."""
    groups: dict[str, list[Marked]] = {}
    for one in marked:
        groups.setdefault(one.question.group, []).append(one)
    return groups


def list_units(marked: Sequence[Marked], name: str = "accuracy") -> dict[str, list[Unit]]:
    """Each question as a unit, with its official credit, for the figure of a name."""
    units = [Unit(one.question.key, one.mark.official, one.mark.against) for one in marked]
    return {name: units}
