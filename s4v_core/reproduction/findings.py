"""The findings of a study: figures by arm, claims with their effects, costs."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from s4v_core.reproduction.command import list_commands
from s4v_core.reproduction.effects import Array, Effect, compare_arms, find_interval
from s4v_core.reproduction.exactness import Preference, prefer, read_captions
from s4v_core.reproduction.records import Done, StudyFolder
from s4v_core.reproduction.scores import read_figures, read_points
from s4v_core.reproduction.study import Arm, Claim, Study

Interval = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class ArmFound:
    """The findings of one arm.

    Attributes:
        figures: Mean over seeds with its interval, by measure.
        points: Points by seed and question, by measure.
        kinds: All figures of its exams, by measure and name: mean over seeds, and questions.
        samples, tokens: What its training stages learned from, all seeds together.
        seconds, shared_seconds: Time of the commands that only it needs, and of the others.
    """

    arm: Arm
    seeds: int
    figures: tuple[Interval, ...]
    points: tuple[Array, ...]
    kinds: tuple[Mapping[str, tuple[float, int]], ...]
    samples: int
    tokens: int
    seconds: float
    shared_seconds: float


@dataclass(frozen=True, slots=True)
class Findings:
    """The findings of a study; arms without a finished exam are left out."""

    study: Study
    arms: tuple[ArmFound, ...]
    claims: tuple[tuple[Claim, tuple[Effect, ...]], ...]
    preference: Preference | None


def find_all(folder: StudyFolder, study: Study) -> Findings:
    """Read everything that a report says of a study, from stored files."""
    done = folder.list_done()
    arms = {
        number: _find_arm(folder, study, arm, done)
        for number, arm in enumerate(study.arms)
        if any(exam.key in done for exam in arm.exams)
    }
    claims = [
        (claim, _compare(study, claim, arms, done))
        for claim in study.claims
        if claim.better in arms and claim.worse in arms
    ]
    return Findings(
        study,
        tuple(arms.values()),
        tuple((claim, effects) for claim, effects in claims if effects),
        _find_preference(folder, study, done),
    )


def _find_arm(folder: StudyFolder, study: Study, arm: Arm, done: Mapping[str, Done]) -> ArmFound:
    exams = [exam for exam in arm.exams if exam.key in done]
    points = tuple(read_points(folder, exams, measure) for measure in study.measures)
    needed = Counter(one.key for other in study.arms for one in study.list_costs(other))
    known = [(one.key, done[one.key]) for one in study.list_costs(arm) if one.key in done]
    return ArmFound(
        arm,
        len(exams),
        tuple(find_interval(one.mean(axis=1).tolist()) for one in points),
        points,
        tuple(read_figures(folder, exams, measure) for measure in study.measures),
        sum(one.samples for _, one in known),
        sum(one.tokens for _, one in known),
        sum(one.seconds for key, one in known if needed[key] == 1),
        sum(one.seconds for key, one in known if needed[key] > 1),
    )


def _compare(
    study: Study, claim: Claim, arms: Mapping[int, ArmFound], done: Mapping[str, Done]
) -> tuple[Effect, ...]:
    """The effect on each measure, over the seeds that both arms have; empty without any."""
    pair = (claim.better, claim.worse)
    has = [[exam.key in done for exam in study.arms[one].exams] for one in pair]
    common = [all(both) for both in zip(*has, strict=True)]
    if not any(common):
        return ()
    rows = [_pick_rows(known, common) for known in has]
    return tuple(
        compare_arms(
            *(arms[one].points[at][chosen] for one, chosen in zip(pair, rows, strict=True))
        )
        for at in range(len(study.measures))
    )


def _pick_rows(known: Sequence[bool], common: Sequence[bool]) -> list[int]:
    """The rows of an arm whose seeds both arms have."""
    chosen = [both for has, both in zip(known, common, strict=True) if has]
    return [number for number, both in enumerate(chosen) if both]


def _find_preference(
    folder: StudyFolder, study: Study, done: Mapping[str, Done]
) -> Preference | None:
    """The captioner's captions against the exact ones of the same pictures."""
    for command in study.captions:
        if command.key in done:
            told = read_captions(folder.read_json(command, "captions.json"))
            drawing = next(
                one
                for one in list_commands([command])
                if one.script == "dataset.py" and one.label == "draw pretrain"
            )
            exact = read_captions(folder.read_json(drawing, "pretrain/teacher.json"))
            return prefer(exact, exact, told)
    return None
