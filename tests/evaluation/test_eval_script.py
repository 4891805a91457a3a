"""The command, from its arguments to its files."""

import json
from pathlib import Path

import pytest

from ray_jobs import eval as script
from s4v_core import storage
from s4v_core.demo.benchmark_files import write_benchmarks
from s4v_core.errors import ConfigError, InputError
from s4v_core.evaluation.catalogue import BENCHMARKS
from s4v_core.evaluation.scoring import read_questions
from tests.evaluation import tiny


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    tiny.make_seed(tmp_path / "seed")
    rows = [{"question_id": n, "prediction": text} for n, text in (("11", "A"), ("12", "B."))]
    return tiny.write_lines(tmp_path / "answers.jsonl", rows)


def _flags(answers: Path, *more: str) -> list[str]:
    data, output = str(answers.parent / "seed"), str(answers.parent / "scores")
    known = ["--benchmarks", "seed", "--data", data, "--output", output]
    return [*known, "--score-only", str(answers), *more]


def test_scoring_writes_the_same_file_each_time(
    answers: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert script.main(_flags(answers)) == 0
    file = answers.parent / "scores" / "scores.json"
    first = file.read_bytes()
    assert script.main(_flags(answers)) == 0
    assert file.read_bytes() == first
    (score,) = json.loads(first)["scores"]
    assert score["official"]["image"] == {"value": 33.3333, "n": 3}
    assert (score["n_missing"], score["missing"]) == (2, ["13", "v1"])
    shown = capsys.readouterr().out
    assert "2 of 4 questions answered; 2 missing (wrong)" in shown
    assert "33.33     66.67        3" in shown


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_place_may_be_a_uri(name: str, tmp_path: Path) -> None:
    tiny.MAKERS[name](tmp_path)
    folder = f"memory://{tmp_path.name}/{name}"
    for path in tmp_path.rglob("*"):
        if path.is_file():
            storage.replace(f"{folder}/data/{path.relative_to(tmp_path)}", path.read_bytes())
    questions = read_questions(BENCHMARKS[name], f"{folder}/data")
    rows = [
        {"question_id": one.key, "prompt": one.prompt, "text": text, **one.row}
        for question in questions
        for text in [tiny.find_gold(name, question)]
        for one in [tiny.answer(question, text)]
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    storage.replace(f"{folder}/answers.jsonl", lines.encode())
    flags = ["--benchmarks", name, "--data", f"{folder}/data", "--output", f"{folder}/scores"]
    assert script.main([*flags, "--score-only", f"{folder}/answers.jsonl"]) == 0
    (score,) = json.loads(storage.read(f"{folder}/scores/scores.json"))["scores"]
    assert (score["benchmark"], score["questions"]) == (name, len(questions))
    assert score["n_unknown"] == 0


def test_a_file_of_somebody_else_is_not_written_over(answers: Path) -> None:
    file = tiny.write_json(answers.parent / "scores" / "scores.json", {"mine": 1})
    with pytest.raises(ConfigError, match="was not written by this run"):
        script.main(_flags(answers))
    assert json.loads(file.read_text()) == {"mine": 1}


def test_several_runs_have_a_mean(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny.write_lines(answers.parent / "b.jsonl", [{"question_id": "11", "text": "C"}])
    assert script.main(_flags(answers, "--score-only", str(other))) == 0
    assert "image, mean of 2 runs: 16.67" in capsys.readouterr().out
    stored = json.loads((answers.parent / "scores/scores.json").read_text())
    assert stored["mean of runs"]["image"] == {"mean": 16.6667, "spread": 33.3333}


def test_two_files_are_compared_in_words(answers: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = tiny.write_lines(answers.parent / "b.jsonl", [{"question_id": "11", "text": "A"}])
    data = str(answers.parent / "seed")
    flags = ["--compare", str(answers), str(other), "--benchmarks", "seed", "--data", data]
    assert script.main(flags) == 0
    shown = capsys.readouterr().out
    assert "SEED-Bench image, image: answers.jsonl 33.33, b.jsonl 33.33" in shown
    assert "the two score alike" in shown
    assert not (answers.parent / "scores").exists()


def test_answers_without_a_judge_end_well_and_are_kept_for_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.make_mm_vet(tmp_path / "data")
    file = tiny.write_json(tmp_path / "answers.json", {"v1_0": "five", "v1_1": "a dog"})
    flags = ["--benchmarks", "mm-vet", "--data", str(tmp_path / "data"), "--output"]
    assert script.main([*flags, str(tmp_path / "out"), "--score-only", str(file)]) == 0
    assert "not judged" in capsys.readouterr().out
    upload = json.loads((tmp_path / "out" / "mm-vet_upload.json").read_text())
    assert upload == {"v1_0": "five", "v1_1": "a dog", "v1_2": "", "v1_3": ""}


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--score-only", "a", "--compare", "a", "b"], "give one of"),
        (["--score-only", "a"], "found no --benchmarks and no --data and no --output"),
        (["--compare", "a", "b", "--benchmarks", "mme"], "found no --data"),
        (["--score-only", "a", "--benchmarks", "x", "--data", "d", "--output", "o"], "found 'x'"),
        (["--score-only=a", "--no-such-flag"], "--no-such-flag"),
        (["nothing"], "recipe: found 'nothing', allowed demo, paper"),
        (["--endpoint", "http://x/v1", "--engine", "vllm"], "found vllm and an --endpoint"),
        (["--engine", "openai"], "set --endpoint"),
        (["--image-mode", "stretch"], "image-mode"),
        (["demo", "--plan", "--retry-errors"], "allowed one of them"),
        (["demo", "--benchmarks", "mme,nothing"], "found 'nothing', allowed llava-w"),
        (["demo", "--benchmarks", ""], "found no --benchmarks"),
        (["demo", "--benchmarks", "mme,pope"], "found no folder pope or POPE for POPE"),
        (["demo", "--image-mode", "nothing"], "image-mode"),
        (["demo", "--max-tokens", "2000", "--settings.max-model-len", "100"], "--max-tokens"),
    ],
)
def test_incomplete_flags_are_one_sentence(
    flags: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("S4V_ROOT", raising=False)
    write_benchmarks(tmp_path / "out/demo/benchmarks", 1)
    with pytest.raises((ConfigError, InputError), match=sentence):
        script.main(flags)
    assert not (tmp_path / "out/demo/evaluation").exists()


def test_questions_that_training_data_answers_are_printed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny.make_stablellava(tmp_path / "data")
    turns = [{"from": "human", "value": "Is there a dog?"}, {"from": "gpt", "value": "Two dogs."}]
    rows = [{"prompt": "((red-car))", "answer": "A red car"}, {"conversations": turns}]
    file = tiny.write_json(tmp_path / "train.json", rows)
    flags = ["--benchmarks", "stablellava", "--data", str(tmp_path / "data")]
    assert script.main([*flags, "--training-data", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "2 of 4 questions are answered by its 2 records" in shown
    assert "question 1: records 2\n" in shown
    assert "question 4: records 1\n" in shown
    tiny.make_seed(tmp_path / "seed")
    others = ["--benchmarks", "seed", "--data", str(tmp_path / "seed")]
    with pytest.raises(ConfigError, match="found benchmark 'seed', allowed those with keywords"):
        script.main([*others, "--training-data", str(file)])


def test_sources_are_printed_without_anything_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert script.main(["--sources"]) == 0
    assert "CC BY-NC-SA 4.0" in capsys.readouterr().out
