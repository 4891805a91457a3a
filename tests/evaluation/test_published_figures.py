"""The published figures, and all figures of the shared fixtures, from stored answers alone."""

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import Answer
from s4v_core.evaluation.benchmarks.science_qa import split_options
from s4v_core.evaluation.catalogue import BENCHMARKS
from s4v_core.evaluation.data_files import read_records
from s4v_core.evaluation.opinion_scores import correlate, rate_quality
from s4v_core.evaluation.parsers import parse_science_qa
from s4v_core.evaluation.score_files import find_mean, score_files
from s4v_core.evaluation.scoring import Score, read_questions, score_answers
from s4v_core.evaluation.spreadsheets import read_sheet
from s4v_core.evaluation.vqa_words import leave_one_out, score_official, score_upload
from tests.conftest import SHARED_DATA

FIXTURES = SHARED_DATA / "benchmarks"
pytestmark = pytest.mark.skipif(not FIXTURES.exists(), reason="needs ../shared/data")


def _score(name: str, data: str, *answers: str) -> list[Score]:
    files = [str(FIXTURES / answer) for answer in answers]
    return score_files(BENCHMARKS[name], str(FIXTURES / data), files)


def _score_constant(name: str, data: str, text: str) -> Score:
    questions = read_questions(BENCHMARKS[name], str(FIXTURES / data))
    answers = [Answer(question.key, text) for question in questions]
    return score_answers(BENCHMARKS[name], questions, answers, "constant.jsonl")


def _assert_figures(score: Score, **expected: float) -> None:
    found = {name: score.official[name.replace("_ROWS", " rows")].value for name in expected}
    assert found == pytest.approx(expected, abs=0.01)


def test_mme_of_llava_13b() -> None:
    (score,) = _score("mme", "mme/ground_truth", "mme/answers_llava-v1.5-13b.jsonl")
    _assert_figures(score, perception=1531.32, cognition=295.36)
    _assert_figures(score, existence=185, count=155, position=133.33, color=170, posters=160.54)
    _assert_figures(score, celebrity=152.94, scene=161.25, landmark=170.5, artwork=117.75, OCR=125)
    _assert_figures(score, commonsense_reasoning=127.86, numerical_calculation=42.5)
    _assert_figures(score, text_translation=77.5, code_reasoning=47.5)
    assert (score.n, len(score.unparsed), score.matched.n_unknown) == (2374, 11, 0)
    assert not score.matched.other_prompts


@pytest.mark.parametrize("file", ["llava-v1.5-13b.xlsx", "answers_llava-v1.5-13b.jsonl"])
def test_mmbench_of_llava_13b(file: str) -> None:
    (score,) = _score("mmbench", "mmbench/llava-v1.5-13b.xlsx", f"mmbench/{file}")
    _assert_figures(score, circular=67.69, first_ROWS=75.43, all_ROWS=76.45)
    assert (score.official["circular"].n, score.n, len(score.unparsed)) == (1176, 4377, 0)


@pytest.mark.parametrize(
    ("letter", "circular", "first"),
    [("A", 0, 34.35), ("B", 0, 27.38), ("C", 0, 21.26), ("D", 0.85, 17.01)],
)
def test_mmbench_of_one_letter_throughout(letter: str, circular: float, first: float) -> None:
    score = _score_constant("mmbench", "mmbench/llava-v1.5-13b.xlsx", letter)
    _assert_figures(score, circular=circular, first_ROWS=first)


def test_groups_of_mmbench_are_what_the_data_says() -> None:
    questions = read_questions(BENCHMARKS["mmbench"], str(FIXTURES / "mmbench/llava-v1.5-13b.xlsx"))
    groups: dict[str, list[Any]] = {}
    for question in questions:
        groups.setdefault(question.group, []).append(question)
    sizes = [len(group) for group in groups.values()]
    assert [sizes.count(size) for size in (4, 3, 2)] == [938, 149, 89]
    assert sum(len(g) == 3 and len(g[0].options) == 4 for g in groups.values()) == 53
    assert sum({one.gold for one in group} == {"D"} for group in groups.values()) == 10


def test_prompts_of_mmbench_are_those_that_llava_stored() -> None:
    stored = {
        str(row["question_id"]): row["prompt"]
        for row in read_records(str(FIXTURES / "mmbench/answers_llava-v1.5-13b.jsonl"))
    }
    questions = read_questions(BENCHMARKS["mmbench"], str(FIXTURES / "mmbench/llava-v1.5-13b.xlsx"))
    instruction = "\nAnswer with the option's letter from the given choices directly."
    # The sheet lacks the hints that stand before some of the questions.
    differing = [
        one.key for one in questions if not (stored[one.key] + instruction).endswith(one.prompt)
    ]
    assert len(differing) <= 4377 * 0.01, differing[:5]


def test_seed_of_llava_13b() -> None:
    (score,) = _score("seed", "seed/GPT-4V.json", "seed/llava-v1.5-13b.jsonl")
    _assert_figures(score, image=68.21, video=42.32, all=62.80)
    assert (score.official["image"].n, score.official["video"].n) == (14_232, 3_757)
    assert (score.matched.repeated, score.matched.n_unknown) == (["49914"], 1252)


def test_seed_of_gpt_4v_by_question_and_by_line() -> None:
    (score,) = _score("seed", "seed/GPT-4V.json", "seed/GPT-4V.json")
    _assert_figures(score, image=69.08, video=60.50, all=67.29)
    assert (len(score.matched.repeated), len(score.matched.contradicted)) == (5, 3)
    lines = read_records(str(FIXTURES / "seed/GPT-4V.json"))
    right = [(row["question_id"][0] == "v", row["prediction"] == row["gt_answer"]) for row in lines]
    images = [is_right for is_video, is_right in right if not is_video]
    assert len(images) == 14_240
    assert 100 * sum(images) / len(images) == pytest.approx(69.07, abs=0.01)


def test_science_qa_of_llava_13b() -> None:
    (score,) = _score("scienceqa", "sqa", "sqa/llava-v1.5-13b_predictions.jsonl")
    _assert_figures(score, image=71.64, all=74.39)
    assert score.official["text only"].value == pytest.approx(76.89, abs=0.01)
    assert (score.official["image"].n, score.n) == (2017, 4241)
    assert sum(one.mark.official for one in score.matched.marked) == 3155


def test_science_qa_reads_every_stored_reply_as_the_original_did() -> None:
    stored = json.loads((FIXTURES / "sqa/llava-v1.5-13b_result.json").read_text())["results"]
    rows = read_records(str(FIXTURES / "sqa/llava-v1.5-13b_predictions.jsonl"))
    asked = json.loads((FIXTURES / "sqa/llava_test_CQM-A.json").read_text())
    options = {row["id"]: split_options(row["conversations"][0]["value"]) for row in asked}
    found = {}
    for row in rows:
        letter = parse_science_qa(row["pred"], options[row["question_id"]])
        found[row["question_id"]] = "ABCDE".index(letter) if letter else -1
    assert found == stored
    assert list(found.values()).count(-1) == 38


def test_mm_vet_of_llava_13b() -> None:
    (score,) = _score("mm-vet", "mm_vet", "mm_vet/llava-v1.5-13b_gpt-4-grade-1runs.json")
    assert score.official["grade"].value == pytest.approx(36.147, abs=0.001)
    found = {name: round(score.official[name].value, 1) for name in score.official}
    assert found | {
        "grade": 36.1, "rec": 40.6, "ocr": 28.0, "know": 23.5, "gen": 24.4, "spat": 34.7,
        "math": 7.7, "set: gen,know,rec": 23.1, "set: math,ocr,spat": 14.3, "set: rec": 67.6,
    } == found  # fmt: skip
    assert [score.official[name].n for name in ("rec", "ocr", "know", "gen", "spat", "math")] == [
        150, 96, 84, 80, 75, 26,
    ]  # fmt: skip
    assert score.judges == ("gpt-4",)


def test_llava_w_of_llava_13b_in_three_runs() -> None:
    reviews = [f"llava_w/llava-v1.5-13b-eval{run}.jsonl" for run in (1, 2, 3)]
    scores = _score("llava-w", "llava_w", *reviews)
    assert [round(score.official["ratio"].value, 1) for score in scores] == [72.8, 72.7, 72.1]
    by_category = [
        [round(score.official[f"category: {name}"].value, 1) for score in scores]
        for name in ("conv", "detail", "complex")
    ]
    # Two of them are often quoted as 52.7 and 82.9, rounded twice: 198 of 239 points are 82.845 %.
    assert by_category == [[74.7, 74.7, 72.5], [52.6, 51.1, 51.1], [82.8, 83.7, 83.5]]
    assert find_mean(scores)["ratio"]["mean"] == pytest.approx(72.5, abs=0.05)
    assert [score.unparsed for score in scores] == [[], [], []]


@pytest.mark.parametrize(
    ("letter", "value"), [("A", 37.59), ("B", 37.32), ("C", 19.20), ("D", 5.89)]
)
def test_qbench_of_one_letter_throughout(letter: str, value: float) -> None:
    score = _score_constant("qbench", "qbench", letter)
    _assert_figures(score, accuracy=value)
    sizes = [score.official[f"type: {name}"].n for name in ("yes/no", "what", "how")]
    assert (score.n, sizes) == (1495, [550, 452, 493])
    concerns = ("distortion", "others", "in-context distortion", "in-context others")
    assert [score.official[f"concern: {name}"].n for name in concerns] == [514, 432, 304, 245]


def test_types_of_qbench_are_those_of_its_questions() -> None:
    questions = read_questions(BENCHMARKS["qbench"], str(FIXTURES / "qbench"))
    for kind, starts in {"what": ("what", "which"), "how": ("how",)}.items():
        asked = [one.text.lower() for one in questions if one.labels["type"] == kind]
        assert sum(one.startswith(starts) for one in asked) > 0.8 * len(asked)


def test_qbench_opinions_of_llava() -> None:
    rows = read_records(str(FIXTURES / "qbench/livec_llava_v1.5.json"))
    opinions = [row["gt_score"] for row in rows]
    by_rank, by_value = correlate(rate_quality(rows), opinions)
    assert (len(rows), round(by_rank, 3), round(by_value, 3)) == (1169, 0.445, 0.471)


def _read_vqa() -> list[dict[str, Any]]:
    data = gzip.decompress((FIXTURES / "vqav2/vqa_annotatons_test.gzip").read_bytes())
    rows: list[dict[str, Any]] = json.loads(data)["annotations"]
    return rows


def _first(row: dict[str, Any]) -> str:
    return str(row["answers"][0]["answer"])


VQA_FORMS: list[tuple[Callable[[dict[str, Any]], str], list[float]]] = [
    (lambda row: str(row["multiple_choice_answer"]), [96.72, 96.60, 96.42]),
    (_first, [87.64, 87.52, 87.31]),
    (lambda row: _first(row)[:1].upper() + _first(row)[1:], [28.24, 63.89, 87.31]),
    (lambda row: _first(row) + ".", [0.00, 51.73, 87.31]),
]


@pytest.mark.parametrize(("answer", "expected"), VQA_FORMS)
def test_vqav2_by_three_rules(
    answer: Callable[[dict[str, Any]], str], expected: list[float]
) -> None:
    rows = _read_vqa()
    pairs = [(answer(row), [one["answer"] for one in row["answers"]]) for row in rows]
    found = [
        100 * sum(rule(text, humans) for text, humans in pairs) / len(pairs)
        for rule in (leave_one_out, score_official, score_upload)
    ]
    assert found == pytest.approx(expected, abs=0.01)


def test_vqav2_from_its_files(tmp_path: Path) -> None:
    for stored, name in (("questions", "questions"), ("annotatons", "annotations")):
        data = (FIXTURES / f"vqav2/vqa_{stored}_test.gzip").read_bytes()
        (tmp_path / f"vqa_{name}_test.json.gz").write_bytes(data)
    questions = read_questions(BENCHMARKS["vqav2"], str(tmp_path))
    answers = [Answer(str(row["question_id"]), _first(row)) for row in _read_vqa()]
    score = score_answers(BENCHMARKS["vqav2"], questions, answers, "first.json")
    _assert_figures(score, accuracy=87.31)
    names = [f"answer type: {name}" for name in ("yes/no", "number", "other")]
    found = [score.official[name].value for name in names]
    assert found == pytest.approx([96.59, 87.55, 77.38], abs=0.01)


@pytest.mark.parametrize(
    ("choose", "ours", "raw"),
    [
        (lambda row: row["majority"], 93.05, 93.05),
        (lambda row: "unanswerable", 44.73, 44.73),
        (lambda row: "Unanswerable", 44.73, 0.00),
    ],
)
def test_vizwiz_of_600_questions(
    choose: Callable[[dict[str, Any]], str], ours: float, raw: float
) -> None:
    data = FIXTURES / "vizwiz/vizwiz_crowd_600.jsonl"
    rows = read_records(str(data))
    questions = read_questions(BENCHMARKS["vizwiz"], str(data))
    answers = [Answer(row["image"], choose(row)) for row in rows]
    score = score_answers(BENCHMARKS["vizwiz"], questions, answers, "x.json")
    _assert_figures(score, accuracy=ours)
    plain = [leave_one_out(choose(row), [a["answer"] for a in row["answers"]]) for row in rows]
    assert 100 * sum(plain) / len(plain) == pytest.approx(raw, abs=0.01)
    people = [len(question.humans) for question in questions]
    assert (people.count(10), people.count(11)) == (594, 6)


def _fields(rows: Sequence[dict[str, Any]]) -> set[tuple[str, ...]]:
    return {tuple(row) for row in rows}


STORED = {
    "mme": ("mme/ground_truth", "mme/answers_llava-v1.5-13b.jsonl"),
    "mmbench": ("mmbench/llava-v1.5-13b.xlsx", "mmbench/answers_llava-v1.5-13b.jsonl"),
    "seed": ("seed", "seed/llava-v1.5-13b.jsonl"),
    "scienceqa": ("sqa", "sqa/llava-v1.5-13b_predictions.jsonl"),
    "mm-vet": ("mm_vet", "mm_vet/llava-v1.5-13b.json"),
    "llava-w": ("llava_w", "llava_w/llava-v1.5-13b.jsonl"),
    "vizwiz": ("vizwiz/vizwiz_crowd_600.jsonl", "vizwiz/llava-v1.5-13b.json"),
}


@pytest.mark.parametrize("data", STORED)
@pytest.mark.parametrize("answers", STORED)
def test_answers_of_one_benchmark_are_refused_by_every_other(data: str, answers: str) -> None:
    # The stored upload of VizWiz answers the test split, and the labels are of other questions.
    if data == answers != "vizwiz":
        assert _score(data, STORED[data][0], STORED[answers][1])[0].n
        return
    with pytest.raises(InputError):
        _score(data, STORED[data][0], STORED[answers][1])


def test_uploads_have_the_layout_of_the_stored_ones(tmp_path: Path) -> None:
    (mmbench,) = _score(
        "mmbench", "mmbench/llava-v1.5-13b.xlsx", "mmbench/answers_llava-v1.5-13b.jsonl"
    )
    stored = FIXTURES / "mmbench/llava-v1.5-13b.xlsx"
    built = BENCHMARKS["mmbench"].submission
    assert built is not None
    sheet = read_sheet("built.xlsx", built.build(mmbench.matched.marked))
    assert sheet == read_sheet(str(stored), stored.read_bytes())

    (vet,) = _score("mm-vet", "mm_vet", "mm_vet/llava-v1.5-13b.json")
    built = BENCHMARKS["mm-vet"].submission
    assert built is not None
    upload = json.loads(built.build(vet.matched.marked))
    assert upload == json.loads((FIXTURES / "mm_vet/llava-v1.5-13b.json").read_text())
    assert vet.unscored is not None


def test_an_upload_of_vizwiz_comes_out_as_it_went_in(tmp_path: Path) -> None:
    asked = read_records(str(FIXTURES / "vizwiz/llava_test.jsonl"))
    rows = [{"image": row["image"], "question": row["text"].split("\n")[0]} for row in asked]
    (tmp_path / "test.json").write_text(json.dumps(rows))
    stored = json.loads((FIXTURES / "vizwiz/llava-v1.5-13b.json").read_text())
    answers = [Answer(row["image"], row["answer"], row=row) for row in stored]
    questions = read_questions(BENCHMARKS["vizwiz"], str(tmp_path))
    score = score_answers(BENCHMARKS["vizwiz"], questions, answers, "x.json")
    built = BENCHMARKS["vizwiz"].submission
    assert built is not None
    assert score.unscored is not None
    upload = json.loads(built.build(score.matched.marked))
    assert _fields(upload) == _fields(stored)
    assert [row["image"] for row in upload] == [row["image"] for row in stored]
    same = sum(a["answer"] == b["answer"] for a, b in zip(upload, stored, strict=True))
    assert same == pytest.approx(8000, abs=80)  # the normaliser applied twice
    prompts = {question.image: question.prompt for question in questions}
    whole = [row for row in asked if row["text"].count("\n") == 2]
    assert all(prompts[row["image"]] == row["text"] for row in whole)


def test_stored_prompts_of_mme_are_ours() -> None:
    asked = read_records(str(FIXTURES / "mme/llava_mme.jsonl"))
    questions = read_questions(BENCHMARKS["mme"], str(FIXTURES / "mme/ground_truth"))
    prompts = {question.prompt for question in questions}
    differing = [row["text"] for row in asked if row["text"] not in prompts]
    assert all("  " in text or " \n" in text for text in differing), differing[:3]
