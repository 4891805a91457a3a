"""Rules of every benchmark: denominators never shrink, and bad files are named."""

import dataclasses
import json
import random
import time
from pathlib import Path

import pytest

from s4v_core.errors import ConfigError, InputError
from s4v_core.evaluation.answer_files import read_answers
from s4v_core.evaluation.benchmark import Answer
from s4v_core.evaluation.catalogue import BENCHMARKS, find_benchmark
from s4v_core.evaluation.scoring import read_questions, score_answers, score_file, show_score
from tests.evaluation import tiny

NAMES = list(BENCHMARKS)
HOSTILE = [
    "",
    "a" * 100_000,
    "🙂🙂",
    "甲乙丙丁",
    "\u202eabc אבג",
    "\x00\x01",
    "nan",
    "<AND>",
    "1 2 3",
]


def _all_gold(name: str, folder: Path) -> tuple[list[tiny.Question], list[Answer]]:
    questions = tiny.read(name, folder)
    return questions, [tiny.answer(one, tiny.find_gold(name, one)) for one in questions]


@pytest.mark.parametrize("name", NAMES)
def test_all_gold_is_the_highest_score(name: str, tmp_path: Path) -> None:
    score = tiny.score(name, *_all_gold(name, tmp_path))
    highest = {"mme": 400, "llava-w": 125, "vqav2": 100, "vizwiz": 100}
    for figures in (score.official, score.lenient):
        found = next(iter(figures.values())).value
        assert found == pytest.approx(highest.get(name, 100), abs=0.1), name
    assert not score.matched.missing
    assert not score.unparsed


@pytest.mark.parametrize("name", NAMES)
def test_the_order_of_answers_changes_nothing(name: str, tmp_path: Path) -> None:
    questions, answers = _all_gold(name, tmp_path)
    answers[0] = dataclasses.replace(answers[0], text="no idea")
    shuffled = random.Random(0).sample(answers, len(answers))
    first, second = (tiny.score(name, questions, one) for one in (answers, shuffled))
    assert first.as_json() == second.as_json()


@pytest.mark.parametrize("name", NAMES)
def test_a_missing_answer_is_wrong_and_listed(name: str, tmp_path: Path) -> None:
    questions, answers = _all_gold(name, tmp_path)
    whole = tiny.score(name, questions, answers)
    part = tiny.score(name, questions, answers[1:])
    assert part.matched.missing == [questions[0].key]
    assert [one.n for one in part.official.values()] == [one.n for one in whole.official.values()]
    assert all(
        part.official[key].value <= figure.value + 1e-9 for key, figure in whole.official.items()
    )
    assert "1 missing (wrong)" in show_score(part)


@pytest.mark.parametrize("name", NAMES)
def test_no_reply_makes_a_scorer_fail_or_drop_a_question(name: str, tmp_path: Path) -> None:
    questions = tiny.read(name, tmp_path)
    answers = [
        tiny.answer(question, HOSTILE[at % len(HOSTILE)]) for at, question in enumerate(questions)
    ]
    for shift in range(3):
        moved = [
            dataclasses.replace(one, text=HOSTILE[(at + 4 * shift) % len(HOSTILE)])
            for at, one in enumerate(answers)
        ]
        score = tiny.score(name, questions, moved)
        assert score.n == len(questions)
        json.dumps(score.as_json())
        if score.benchmark.submission:
            assert score.benchmark.submission.build(score.matched.marked)


@pytest.mark.parametrize("name", NAMES)
def test_a_right_answer_for_a_wrong_one_never_lowers_a_score(name: str, tmp_path: Path) -> None:
    questions, gold = _all_gold(name, tmp_path)
    wrong = [tiny.answer(one, "0.0" if name == "mm-vet" else "8 1") for one in questions]
    answers, last = wrong, -1.0
    for at in random.Random(1).sample(range(len(questions)), len(questions)):
        answers = [gold[n] if n == at else one for n, one in enumerate(answers)]
        headline = next(iter(tiny.score(name, questions, answers).official.values())).value
        assert headline >= last - 1e-9
        last = headline


def test_unknown_and_repeated_answers_are_counted(tmp_path: Path) -> None:
    questions, answers = _all_gold("seed", tmp_path)
    answers += [Answer("999", "A"), Answer("998", "B")]
    answers += [answers[0], dataclasses.replace(answers[1], text="D")]
    score = tiny.score("seed", questions, answers)
    assert score.matched.unknown == ["998", "999"]
    assert score.matched.repeated == [questions[0].key]
    assert score.matched.contradicted == [questions[1].key]
    assert score.official["image"].value == 100  # the first answer of each counts
    assert any("the first answer of each counts" in one for one in score.warnings)
    assert "2 unknown ids, 2 repeated" in show_score(score)


def test_answers_of_another_benchmark_are_refused_by_their_ids(tmp_path: Path) -> None:
    questions = tiny.read("mme", tmp_path)
    with pytest.raises(InputError, match="none of its 1 answers belongs to a question of MME"):
        tiny.score("mme", questions, [Answer("101669", "A")])


def test_answers_whose_numbers_agree_only_here_and_there_are_refused(tmp_path: Path) -> None:
    questions = tiny.read("seed", tmp_path)
    strangers = [Answer(str(n), "A") for n in range(11, 30, 6)]
    with pytest.raises(InputError, match="only 1 of its 4 answers belongs to a question of SEED"):
        tiny.score("seed", questions, strangers)
    part = tiny.score("seed", questions, [Answer("11", "A")])
    assert len(part.matched.missing) == 3


def test_answers_of_another_benchmark_are_refused_by_their_prompts(tmp_path: Path) -> None:
    questions = tiny.read("llava-w", tmp_path)
    answers = [Answer(str(n), "black", f"What is in picture {n}?") for n in range(4)]
    with pytest.raises(InputError, match="4 of 4 answers were asked something else than LLaVA-Be"):
        tiny.score("llava-w", questions, answers)


def test_a_few_other_prompts_are_counted(tmp_path: Path) -> None:
    questions, answers = _all_gold("llava-w", tmp_path)
    answers[2] = dataclasses.replace(answers[2], prompt="Something else")
    score = tiny.score("llava-w", questions, answers)
    assert score.matched.other_prompts == ["2"]
    assert "1 other prompts" in show_score(score)


def test_a_release_of_another_size_is_pointed_out(tmp_path: Path) -> None:
    score = tiny.score("seed", *_all_gold("seed", tmp_path))
    assert any("4 questions, where a whole release has 14,232" in one for one in score.warnings)


@pytest.mark.parametrize("name", NAMES)
def test_a_score_is_shown_with_what_it_is_read_with(name: str, tmp_path: Path) -> None:
    score = tiny.score(name, *_all_gold(name, tmp_path))
    shown, benchmark = show_score(score), BENCHMARKS[name]
    assert f"scorer: {benchmark.scorer}" in shown
    assert benchmark.published.keys() <= score.official.keys()
    for figure, one in benchmark.published.items():
        assert f"the paper's {figure}: ShareGPT4V-7B {one.share_7b}" in shown
        assert f"images {benchmark.generation.image_mode}, template" in shown


def test_answers_without_a_judge_are_kept_and_not_scored(tmp_path: Path) -> None:
    questions = tiny.read("mm-vet", tmp_path)
    score = tiny.score("mm-vet", questions, [Answer(one.key, "5") for one in questions])
    assert score.official == {}
    assert "not judged" in show_score(score)
    assert score.as_json()["unscored"].startswith("not judged")


def test_a_split_without_public_answers_is_not_scored(tmp_path: Path) -> None:
    tiny.make_vqav2(tmp_path, with_answers=False)
    questions = read_questions(BENCHMARKS["vqav2"], str(tmp_path))
    score = tiny.score("vqav2", questions, [Answer("1001", "yes")])
    assert "not public" in show_score(score)
    assert "0.00" not in show_score(score)


BAD_ANSWERS = [
    ("", "is empty"),
    ("  \n", "is empty"),
    ("[]", "holds no answers"),
    ('{"question_id": 1, "text": "A"}\n{"question_id": 2, "te', "ends in the middle of a record"),
    ('[{"question_id": 1, "text": "A"},', "ends in the middle of a record"),
    ('{"question_id": 1, "text": "A"}\n} {}', "is no JSON"),
    ('{"question_id": 1}\n{"question_id": 2}', "record 1 has no a reply"),
    ('[{"text": "A"}]', "record 1 has no an id"),
    ("[1, 2]", "record 1: found int, expected an object"),
    ("question,answer", "is no JSON"),
    ("<html>404</html>", "is no JSON"),
]


@pytest.mark.parametrize(("text", "sentence"), BAD_ANSWERS)
def test_a_bad_file_of_answers_is_one_sentence(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "answers.jsonl"
    path.write_text(text)
    with pytest.raises(InputError, match=sentence) as caught:
        read_answers(str(path))
    assert "\n" not in str(caught.value)


def test_answers_in_every_dialect_of_json_are_the_same(tmp_path: Path) -> None:
    rows = ['{"question_id": "1", "text": "A"}', '{"question_id": "2", "text": "B"}']
    texts = ["\n".join(rows), ",\n".join(rows) + ",", "".join(rows), f"[{','.join(rows)}]"]
    texts += ['{"1": "A", "2": "B"}', "\ufeff" + "\r\n".join(rows)]
    for text in texts:
        path = tmp_path / "answers.json"
        path.write_text(text, encoding="utf-8")
        assert [(one.key, one.text) for one in read_answers(str(path))] == [("1", "A"), ("2", "B")]


@pytest.mark.parametrize("reply", [None, 3, 2.5, True, float("nan"), ["0.5", "1.0"]])
def test_a_reply_that_is_no_text_is_still_an_answer(reply: object, tmp_path: Path) -> None:
    path = tiny.write_lines(tmp_path / "a.jsonl", [{"question_id": 1, "text": reply}])
    (answer,) = read_answers(str(path))
    assert isinstance(answer.text, str)


@pytest.mark.parametrize("name", NAMES)
def test_half_a_data_set_is_refused_or_pointed_out(name: str, tmp_path: Path) -> None:
    folder = tiny.MAKERS[name](tmp_path)
    files = sorted(path for path in folder.rglob("*") if path.suffix != ".jpg" and path.is_file())
    file = max(files, key=lambda path: path.stat().st_size)
    data = file.read_bytes()
    file.write_bytes(data[: len(data) * 2 // 3])
    with pytest.raises(InputError) as caught:
        read_questions(BENCHMARKS[name], str(folder))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_or_a_missing_data_set_is_one_sentence(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such"):
        read_questions(BENCHMARKS[name], str(tmp_path / "nowhere"))
    with pytest.raises(InputError, match="found no"):
        read_questions(BENCHMARKS[name], str(tmp_path))
    folder = tiny.MAKERS[name](tmp_path / "made")
    for path in folder.rglob("*"):
        if path.is_file():
            path.write_bytes(b"")
    with pytest.raises(InputError, match=r"is empty|no such"):
        read_questions(BENCHMARKS[name], str(folder))


@pytest.mark.parametrize("name", [one for one in NAMES if one != "mme"])
def test_data_of_another_benchmark_is_refused(name: str, tmp_path: Path) -> None:
    other = tmp_path / ("data.tsv" if name.startswith("mmbench") else "data.json")
    other.write_text("colour\tshape\nred\tround\n" if other.suffix == ".tsv" else '[{"a": "b"}]')
    with pytest.raises(InputError):
        read_questions(BENCHMARKS[name], str(other))


def test_a_row_of_mmbench_that_lacks_columns_names_itself(tmp_path: Path) -> None:
    tiny.make_mmbench(tmp_path)
    file = tmp_path / "mmbench_dev_20230712.tsv"
    file.write_text(file.read_text().rstrip()[:-40])
    with pytest.raises(InputError, match=r"the last row has \d+ of 13 columns; fetch it again"):
        read_questions(BENCHMARKS["mmbench"], str(tmp_path))


@pytest.mark.parametrize("name", ["mmbench", "mmbench-cn"])
def test_a_sheet_cut_off_anywhere_is_refused_or_pointed_out(name: str, tmp_path: Path) -> None:
    file = next(tiny.MAKERS[name](tmp_path).glob("*.tsv"))
    whole = file.read_bytes()
    rows = len(read_questions(BENCHMARKS[name], str(file)))
    refusals = []
    for end in range(len(whole)):
        file.write_bytes(whole[:end])
        try:
            questions = read_questions(BENCHMARKS[name], str(file))
        except InputError as error:
            refusals.append(str(error))
            continue
        score = tiny.score(name, questions, [tiny.answer(questions[0], "A")])
        assert any("where a whole release has" in warning for warning in score.warnings)
        # Only the name of the split, which nothing reads, may lack its end unseen.
        assert len(questions) < rows or end >= len(whole) - len("dev\n")
    assert len(refusals) > len(whole) * 0.9
    assert not any("\n" in sentence for sentence in refusals)


def test_an_unknown_benchmark_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="found 'mmmu', allowed llava-w, mme"):
        find_benchmark("mmmu")


def test_100_000_answers_are_scored_within_30_s(tmp_path: Path) -> None:
    people = [{"answer": one} for one in ["red"] * 6 + ["dark red", "a red", "blue", "pink"]]
    asked = [{"image": f"{n}.jpg", "question": "Which?", "answers": people} for n in range(100_000)]
    tiny.write_json(tmp_path / "val.json", asked)
    rows = ({"image": f"{n}.jpg", "answer": f"The red, {n % 100}."} for n in range(100_000))
    answers = tiny.write_lines(tmp_path / "answers.jsonl", rows)
    start = time.process_time()
    score = score_file(BENCHMARKS["vizwiz"], str(tmp_path / "val.json"), str(answers))
    assert time.process_time() - start < 30
    assert score.official["accuracy"].n == 100_000


def test_100_000_letters_are_read_within_30_s(tmp_path: Path) -> None:
    (question, *_) = tiny.read("seed", tmp_path)
    questions = [dataclasses.replace(question, key=str(n)) for n in range(100_000)]
    answers = [Answer(str(n), f"I think it shows a {n} in the picture") for n in range(100_000)]
    start = time.process_time()
    score = score_answers(BENCHMARKS["seed"], questions, answers, "a.jsonl")
    assert time.process_time() - start < 30
    assert len(score.unparsed) == 100_000
