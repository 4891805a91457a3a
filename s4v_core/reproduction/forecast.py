"""The cost of a study and the difference that it can show, before it runs."""

from collections.abc import Mapping, Sequence

import numpy as np

from s4v_core.reproduction.effects import count_needed_seeds, find_least_difference
from s4v_core.reproduction.records import Done, StudyFolder
from s4v_core.reproduction.scores import Measure, read_points
from s4v_core.reproduction.study import Study, list_all

SPREADS: Mapping[str, float] = {"mme": 60.0, "mmbench": 4.0, "vqav2": 4.0, "stablellava": 4.0}
"""Standard deviation of paired differences between seeds in points of each measure: a guess, until
exams of two seeds are there to measure it."""

_WANTED = {"mme": 50.0, "mmbench": 3.0, "vqav2": 3.0, "stablellava": 3.0}
"""Differences whose number of seeds is told, in points."""


def describe_plan(folder: StudyFolder, studies: Sequence[Study], seeds: int, cpus: int) -> str:
    """The commands of studies, their time, and what the seeds can show."""
    done = folder.list_done()
    commands = list_all(studies)
    missing = [one for one in commands if one.key not in done]
    work = sum(one.expected_s * min(one.cpus, cpus) for one in missing)
    lines = [
        f"{len(commands):,} commands on {cpus} cores, {len(commands) - len(missing):,} of them "
        f"done; about {work / max(cpus, 1) / 60:,.0f} min to go"
    ]
    for study in studies:
        lines.append(f"{study.name}: {study.title}")
        for arm in study.arms:
            own = [one for one in study.list_costs(arm) if one.key not in done]
            minutes = sum(one.expected_s for one in own) / 60
            lines.append(f"  {arm.title}: {len(own):,} commands, {minutes:,.0f} min on a core")
    if measures := _list_measures(studies):
        lines += _describe_power(measures, seeds, _find_spreads(folder, studies, done))
    return "\n".join(lines)


def _list_measures(studies: Sequence[Study]) -> list[Measure]:
    """The measures of studies that have exams, each once."""
    return list(dict.fromkeys(one for study in studies if study.arms for one in study.measures))


def _find_spreads(
    folder: StudyFolder, studies: Sequence[Study], done: Mapping[str, Done]
) -> dict[str, float]:
    """Measured spreads between seeds, of the claims whose exams are all there."""
    found: dict[str, float] = {}
    for measure in _list_measures(studies):
        spreads = [
            _measure_spread(folder, study, measure, claim.better, claim.worse)
            for study in studies
            if measure in study.measures
            for claim in study.claims
            if all(
                exam.key in done
                for arm in (claim.better, claim.worse)
                for exam in study.arms[arm].exams
            )
            and len(study.arms[claim.better].exams) > 1
        ]
        if spreads:
            found[measure.benchmark] = max(sum(spreads) / len(spreads), 1e-9)
    return found


def _measure_spread(
    folder: StudyFolder, study: Study, measure: Measure, better: int, worse: int
) -> float:
    """Standard deviation over seeds of the difference of two arms."""
    first, second = (
        read_points(folder, study.arms[arm].exams, measure).mean(axis=1) for arm in (better, worse)
    )
    return float(np.std(first - second, ddof=1))


def _describe_power(
    measures: Sequence[Measure], seeds: int, measured: Mapping[str, float]
) -> list[str]:
    lines = [f"with {seeds} seeds, at 5 % two-sided and a power of 80 %:"]
    for measure in measures:
        name = measure.benchmark
        spread, wanted = measured.get(name, SPREADS[name]), _WANTED[name]
        kind = "measured" if name in measured else "assumed"
        lines.append(
            f"  {measure.title}: differences from {find_least_difference(seeds, spread):.1f} "
            f"points on are found; {wanted:g} points need {count_needed_seeds(wanted, spread)} "
            f"seeds ({kind} spread {spread:.3g})"
        )
    lines.append(f"  a test over seeds alone cannot go below p = {2 / 2**seeds:.2g}")
    return lines
