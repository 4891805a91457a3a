import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from s4v_core.errors import InputError
from s4v_core.reproduction.command import Command
from s4v_core.reproduction.demo_studies import STUDIES
from s4v_core.reproduction.findings import find_all
from s4v_core.reproduction.job import ReproduceJob
from s4v_core.reproduction.records import StudyFolder
from s4v_core.reproduction.running import open_reproduction
from s4v_core.reproduction.scores import MEASURES, Measure, read_points
from s4v_core.reproduction.sizes import QUICK
from s4v_core.reproduction.study import list_all
from s4v_core.reproduction.world import DemoWorld

SEEDS = 5


def _store_exam(folder: StudyFolder, exam: Command, share: float, seed: int) -> None:
    """The credits that eval.py leaves, with this share of right answers."""
    chance = random.Random(seed)
    units = {
        "mme": [
            [f"{task}/{n}", 2.0 * (chance.random() < share), 1.0, task]
            for task in ("count", "color")
            for n in range(60)
        ],
        "mmbench": [[str(n), float(chance.random() < share), 1.0, ""] for n in range(100)],
        "vqav2": [[str(n), float(chance.random() < share), 1.0, ""] for n in range(200)],
    }
    stored = {
        "mme": {"perception": units["mme"]},
        "mmbench": {"circular": units["mmbench"]},
        "vqav2": {"accuracy": units["vqav2"]},
    }
    kinds = {
        "perception": {"value": 200 * share, "n": 120},
        "count": {"value": 100 * share, "n": 60},
        "cognition": {"value": 0, "n": 0},
    }
    _store_scores(folder, exam, stored, {"mme": kinds, "mmbench": {}, "vqav2": {}})
    folder.record(exam, 12.5)


def _store_scores(
    folder: StudyFolder, exam: Command, stored: dict[str, Any], kinds: dict[str, Any]
) -> None:
    """Store the files of an exam: credits by question, and figures by kind of question."""
    place = Path(exam.locate(folder.runs))
    place.mkdir(parents=True)
    (place / "credits.json").write_text(json.dumps(stored))
    scores = [{"benchmark": name, "official": figures} for name, figures in kinds.items()]
    (place / "scores.json").write_text(json.dumps({"scores": scores}))


@pytest.fixture
def table_4(tmp_path: Path) -> StudyFolder:
    """A finished table 4 whose arms answer 30, 32, 50 and 52 % of the questions."""
    folder = StudyFolder(str(tmp_path / "out"))
    study = STUDIES["table4"](DemoWorld(QUICK), range(1, SEEDS + 1))
    for number, (arm, share) in enumerate(zip(study.arms, (0.3, 0.32, 0.5, 0.52), strict=True)):
        for seed, exam in enumerate(arm.exams):
            _store_exam(folder, exam, share, 100 * number + seed)
    return folder


def _job(folder: StudyFolder, *studies: str, seeds: int = SEEDS) -> ReproduceJob:
    return ReproduceJob(study=studies, seeds=seeds, output=folder.output, quick=True)


def test_a_figure_is_the_mean_of_its_points(table_4: StudyFolder) -> None:
    study = STUDIES["table4"](DemoWorld(QUICK), range(1, SEEDS + 1))
    exam = study.arms[0].exams[0]
    for name, tasks in (("mme", 2), ("mmbench", 1), ("vqav2", 1)):
        points = read_points(table_4, [exam], Measure(name, ""))
        stored = table_4.read_json(exam, "credits.json")[name]
        units = next(iter(stored.values()))
        strata = {unit[3] for unit in units}
        assert len(strata) == tasks
        wanted = sum(
            100 * sum(u[1] for u in units if u[3] == one) / sum(u[3] == one for u in units)
            for one in strata
        )
        assert points.mean() == pytest.approx(wanted)


def test_what_differs_is_held_and_what_does_not_is_not_shown(table_4: StudyFolder) -> None:
    study = STUDIES["table4"](DemoWorld(QUICK), range(1, SEEDS + 1))
    found = find_all(table_4, study)
    verdicts = [[effect.judge() for effect in effects] for _, effects in found.claims]
    assert verdicts[1] == ["held"] * len(MEASURES)
    assert verdicts[2] == ["held"] * len(MEASURES)
    assert all(effect.p_questions < 0.01 for effect in found.claims[1][1])
    assert "held" not in verdicts[0]


def test_the_report_is_made_of_stored_scores_alone_and_always_the_same(
    table_4: StudyFolder,
) -> None:
    place = Path(open_reproduction(_job(table_4, "table4")).report())
    first = place.read_text()
    place.unlink()
    place = Path(open_reproduction(_job(table_4, "table4")).report())
    assert place.read_text() == first
    text = re.sub("<[^>]+>", " ", first)
    for words in ("1567.4", "MME form", "held", "not shown", "p over seeds", "Cost of each arm"):
        assert words in text, words
    assert "Unfinished" not in text
    assert first.count("<svg") == len(MEASURES)


def test_kinds_of_questions_are_means_over_seeds_and_empty_ones_are_left_out(
    table_4: StudyFolder,
) -> None:
    study = STUDIES["table4"](DemoWorld(QUICK), range(1, SEEDS + 1))
    last = Path(study.arms[0].exams[-1].locate(table_4.runs)) / "scores.json"
    scores = json.loads(last.read_text())
    scores["scores"][0]["official"]["count"]["value"] = 40.0
    last.write_text(json.dumps(scores))
    found = find_all(table_4, study)
    assert found.arms[0].kinds[0] == {
        "perception": (pytest.approx(60), 120),
        "count": (pytest.approx((4 * 30 + 40) / 5), 60),
    }
    page = Path(open_reproduction(_job(table_4, "table4")).report()).read_text()
    row = "<td>count</td><td class=number>60</td><td class=number>32.0</td>"
    assert row in page
    assert "cognition" not in page


def test_few_seeds_have_no_verdict_and_one_has_no_interval(table_4: StudyFolder) -> None:
    page = Path(open_reproduction(_job(table_4, "table4", seeds=1)).report()).read_text()
    assert page.count("no verdict: 1 of 5 seeds") == 4 * len(MEASURES)
    assert "<td class=number>held" not in page
    arms = page[page.index("<h3>Ours") : page.index("</table>", page.index("<h3>Ours"))]
    assert "[" not in arms


def test_an_unfinished_study_says_so_and_shows_what_there_is(table_4: StudyFolder) -> None:
    # Two more seeds than were run, and a study that was not run at all.
    place = Path(open_reproduction(_job(table_4, "table4", "table6", seeds=SEEDS + 2)).report())
    text = place.read_text()
    assert "Unfinished: table4, table6" in text
    assert ">5</td>" in text


def test_claims_are_about_the_seeds_that_both_arms_have(table_4: StudyFolder) -> None:
    study = STUDIES["table4"](DemoWorld(QUICK), range(1, SEEDS + 1))
    lost = study.arms[0].exams[1]
    (Path(table_4.output) / "done" / f"{lost.key}.json").unlink()
    found = find_all(table_4, study)
    assert found.arms[0].seeds == SEEDS - 1
    by_claim = {(claim.better, claim.worse): effects for claim, effects in found.claims}
    assert by_claim[(1, 0)][0].seeds == SEEDS - 1
    assert by_claim[(3, 1)][0].seeds == SEEDS
    kept = [0, 2, 3, 4]
    wanted = (found.arms[1].points[1][kept] - found.arms[0].points[1]).mean()
    assert by_claim[(1, 0)][1].mean == pytest.approx(wanted)


def test_exams_over_other_questions_are_refused(table_4: StudyFolder) -> None:
    study = STUDIES["table4"](DemoWorld(QUICK), range(1, SEEDS + 1))
    place = Path(study.arms[0].exams[1].locate(table_4.runs)) / "credits.json"
    stored = json.loads(place.read_text())
    stored["mmbench"]["circular"][0][0] = "another"
    place.write_text(json.dumps(stored))
    with pytest.raises(InputError, match="its questions are not those"):
        find_all(table_4, study)


def test_a_plan_measures_the_spread_of_what_was_run(table_4: StudyFolder) -> None:
    text = open_reproduction(_job(table_4, "table4")).describe()
    assert text.count("measured spread") == len(MEASURES)


def test_every_study_has_a_report_before_anything_is_done(tmp_path: Path) -> None:
    found = open_reproduction(ReproduceJob(study=tuple(STUDIES), output=str(tmp_path), quick=True))
    text = Path(found.report()).read_text()
    for study in found.studies:
        assert study.published.source.split(":")[0] in text


def test_a_study_may_have_measures_of_its_own(tmp_path: Path) -> None:
    """The study of synthesised data asks for keywords alone; 20 of 100 answers become right."""
    folder = StudyFolder(str(tmp_path / "out"))
    study = STUDIES["stablellava-figure6"](DemoWorld(QUICK), range(1, SEEDS + 1))
    for arm, right in zip(study.arms, (50, 70), strict=True):
        for exam in arm.exams:
            units = [[f"{n:03}", float(n < right), 1.0, "color"] for n in range(100)]
            stored = {"stablellava": {"mean of abilities": units}}
            figures = {"color": {"value": float(right), "n": 100}}
            _store_scores(folder, exam, stored, {"stablellava": figures})
            folder.record(exam, 1.0)
    ((_, (effect,)),) = find_all(folder, study).claims
    assert (effect.mean, effect.judge()) == (pytest.approx(20), "held")
    found = open_reproduction(_job(folder, "stablellava-figure6"))
    assert "color, % right: differences from" in found.describe()
    page = Path(found.report()).read_text()
    assert "70.0 [70.0, 70.0]" in page
    assert "66 -&gt; 76" in page


def test_costs_count_what_arms_share_once(table_4: StudyFolder) -> None:
    study = STUDIES["table4"](DemoWorld(QUICK), range(1, SEEDS + 1))
    for command in list_all([study]):
        if command.label.startswith("start model"):
            table_4.record(command, 100.0)
    found = find_all(table_4, study)
    assert {one.shared_seconds for one in found.arms} == {100.0}
    assert {one.seconds for one in found.arms} == {12.5 * SEEDS}
