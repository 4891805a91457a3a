"""A study as a value: its arms, what differs between them, and what is claimed of them."""

from collections.abc import Sequence
from dataclasses import dataclass

from s4v_core.reproduction.command import Command, list_commands
from s4v_core.reproduction.published import PublishedTable
from s4v_core.reproduction.scores import MEASURES, Measure


@dataclass(frozen=True, slots=True)
class Arm:
    """One line of a study's table.

    Attributes:
        name: Its cells in the columns that say what differs.
        exams: Its evaluations, one per seed in the order of the seeds.
        at: Its place on the axis of a curve; None in a table.
        curve: Name of the curve that it is a point of.
    """

    name: tuple[str, ...]
    exams: tuple[Command, ...]
    at: float | None = None
    curve: str = ""

    @property
    def title(self) -> str:
        return ", ".join(self.name)


@dataclass(frozen=True, slots=True)
class Claim:
    """A sentence of the paper as a comparison of two arms, by their numbers.

    Attributes:
        text: The claim in words.
        better, worse: The arm that should score more, and the other one.
    """

    text: str
    better: int
    worse: int


@dataclass(frozen=True, slots=True)
class Study:
    """A table or figure of a paper that is replayed.

    Attributes:
        head: Names of the columns that say what differs.
        note: What stands for what, and how the miniature differs from the paper.
        captions: Commands whose captions are held against exact ones; see `exactness.py`.
        measures: The figures that its exams have.
    """

    name: str
    title: str
    head: tuple[str, ...]
    published: PublishedTable
    arms: tuple[Arm, ...] = ()
    claims: tuple[Claim, ...] = ()
    note: str = ""
    captions: tuple[Command, ...] = ()
    measures: tuple[Measure, ...] = MEASURES

    @property
    def wanted(self) -> list[Command]:
        """The commands whose results it reads."""
        return [*self.captions, *(exam for arm in self.arms for exam in arm.exams)]

    def list_costs(self, arm: Arm) -> list[Command]:
        """The commands behind an arm, shared ones included."""
        return list_commands(arm.exams)


def list_all(studies: Sequence[Study]) -> list[Command]:
    """The commands of several studies, each once. Commands of the first seeds come first, so that
    an interrupted study has whole seeds."""
    waves = max((len(arm.exams) for study in studies for arm in study.arms), default=0)
    ordered = [one for study in studies for one in study.captions]
    for wave in range(waves):
        for study in studies:
            ordered += [arm.exams[wave] for arm in study.arms if wave < len(arm.exams)]
    return list_commands(ordered)
