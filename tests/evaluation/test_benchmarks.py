"""Each benchmark from hand-made files: its questions, its prompt, and figures done by hand."""

from pathlib import Path

import pytest

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import Answer
from s4v_core.evaluation.catalogue import BENCHMARKS, list_sources
from s4v_core.evaluation.scoring import read_questions
from tests.evaluation import tiny


def _answers(name: str, folder: Path, texts: list[str]) -> tuple[dict[str, float], tiny.Score]:
    questions = tiny.read(name, folder)
    answers = [tiny.answer(one, text) for one, text in zip(questions, texts, strict=True)]
    score = tiny.score(name, questions, answers)
    return {key: figure.value for key, figure in score.official.items()}, score


def test_mme_adds_accuracy_and_accuracy_of_whole_images(tmp_path: Path) -> None:
    # In the order of the files: code, count, posters.
    texts = ["Yes", "No", "Yes", "Yes", "yes, one", "No.", "The answer is yes", "no"]
    figures, score = _answers("mme", tmp_path, texts)
    assert figures["code_reasoning"] == 200
    assert figures["count"] == 75 + 50
    assert figures["posters"] == 50
    assert (figures["perception"], figures["cognition"]) == (175, 200)
    assert score.lenient["posters"].value == 200
    assert any("differ by format: 'The answer is yes'" in warning for warning in score.warnings)


def test_mme_is_joined_by_image_and_question_however_its_answers_spell_them(tmp_path: Path) -> None:
    questions = tiny.read("mme", tmp_path)
    suffix = "\nAnswer the question using a single word or phrase."
    answers = [
        Answer("posters/images/tt01.jpg", "Yes", "Is it Alien?" + suffix),
        Answer("posters/tt01.png", "No", "Is it  Heat Please answer yes or no."),
        Answer("count/0002.png", "No", "Are there two dogs?" + suffix),
    ]
    score = tiny.score("mme", questions, answers)
    assert score.official["posters"].value == 200
    assert len(score.matched.missing) == 5


def test_the_prompt_of_mme_is_llavas(tmp_path: Path) -> None:
    prompts = {question.prompt for question in tiny.read("mme", tmp_path)}
    expected = "Are there three cats?\nAnswer the question using a single word or phrase."
    assert expected in prompts


def test_mmbench_counts_a_group_only_if_every_rotation_is_right(tmp_path: Path) -> None:
    texts = ["A", "D", "C", "D", "A", "B", "D", "D"]  # the last rotation of the first is wrong
    figures, _ = _answers("mmbench", tmp_path, texts)
    assert figures["circular"] == pytest.approx(100 * 2 / 3)
    assert figures["first rows"] == 100
    assert figures["all rows"] == pytest.approx(100 * 7 / 8)
    assert (figures["category: animal"], figures["category: time"]) == (50, 100)


def test_prompts_of_mmbench_have_hint_and_options_in_either_language(tmp_path: Path) -> None:
    first, *_, last = tiny.read("mmbench", tmp_path / "en")
    assert first.prompt == (
        "A farm.\nWhat is it?\nA. cow\nB. pig\nC. hen\nD. cat\n"
        "Answer with the option's letter from the given choices directly."
    )
    assert last.prompt.startswith("Which?\nA. two\n")
    chinese = tiny.read("mmbench-cn", tmp_path / "cn")
    assert chinese[4].prompt == "Is it day?\nA. yes\nB. no\n请直接回答选项字母。"


def test_seed_takes_the_letter_exactly_and_images_only(tmp_path: Path) -> None:
    figures, score = _answers("seed", tmp_path, ["A", "B.", "D", "D"])
    assert figures["image"] == pytest.approx(100 / 3)
    assert (figures["video"], figures["all"]) == (100, 50)
    assert figures["type: Scene Understanding"] == 50
    assert score.lenient["image"].value == pytest.approx(200 / 3)


def test_science_qa_counts_those_with_an_image(tmp_path: Path) -> None:
    texts = ["B", "The answer is A.", "C", "E. pink"]
    figures, score = _answers("scienceqa", tmp_path, texts)
    assert figures["image"] == pytest.approx(200 / 3)
    assert (figures["all"], figures["text only"]) == (75, 100)
    assert figures["subject: natural science"] == 100
    assert score.unparsed == ["6"]  # C, where there are two choices


def test_science_qa_reads_both_of_its_layouts_alike(tmp_path: Path) -> None:
    problems = tiny.read("scienceqa", tmp_path / "problems")
    rows = [
        {
            "id": one.key,
            "conversations": [
                {"from": "human", "value": ("<image>\n" if one.image else "") + text},
                {"from": "gpt", "value": one.gold},
            ],
        }
        | ({"image": one.image} if one.image else {})
        for one in problems
        for text in [one.prompt.rpartition("\n")[0]]
    ]
    path = tiny.write_json(tmp_path / "chat" / "llava_test_CQM-A.json", rows)
    chat = read_questions(BENCHMARKS["scienceqa"], str(path.parent))
    for ours, theirs in zip(problems, chat, strict=True):
        assert (ours.prompt, ours.options, ours.gold) == (
            theirs.prompt, theirs.options, theirs.gold,
        )  # fmt: skip


def test_qbench_by_type_and_concern(tmp_path: Path) -> None:
    figures, score = _answers("qbench", tmp_path, ["B. No", "Hand", "the light is (D)"])
    assert figures["accuracy"] == pytest.approx(100 / 3)
    assert figures["type: yes/no"] == 100
    assert figures["concern: in-context others"] == 0
    assert len(score.unparsed) == 1


def test_qbench_reads_what_the_original_runner_writes(tmp_path: Path) -> None:
    questions = tiny.read("qbench", tmp_path)
    rows = [
        '{"img_path": "1.jpg", "question": "Is it sharp?", "response": "B"}',
        '{"img_path": "2.jpg", "question": "How is the light?", "response": "D"}',
    ]
    from s4v_core.evaluation.answer_files import read_answers

    path = tmp_path / "answers.jsonl"
    path.write_text("".join(rows))  # without line breaks
    score = tiny.score("qbench", questions, read_answers(str(path)))
    assert score.official["accuracy"].value == pytest.approx(200 / 3)
    assert len(score.matched.missing) == 1


def test_qbench_is_joined_by_image_and_prompt(tmp_path: Path) -> None:
    questions = tiny.read("qbench", tmp_path)
    assert questions[0].prompt == (
        "Is it sharp?\nChoose between one of the options as follows:\nA. Yes\nB. No\n"
    )
    answers = [Answer(one.image, str(one.gold), one.prompt) for one in questions]
    score = tiny.score("qbench", questions, answers)
    assert (score.official["accuracy"].value, score.matched.missing) == (100, [])


def test_vqav2_leaves_each_person_out(tmp_path: Path) -> None:
    figures, _ = _answers("vqav2", tmp_path, ["Yes.", "two", "a dog"])
    # "a dog" is "dog" once normalised: two of ten people; of the people only punctuation is.
    other = 100 * (2 * (1 / 3) + 8 * (2 / 3)) / 10
    assert figures["answer type: yes/no"] == 100
    assert figures["answer type: number"] == 100
    assert figures["answer type: other"] == pytest.approx(other)
    assert figures["accuracy"] == pytest.approx((200 + other) / 3)


def test_vizwiz_has_eleven_people_and_takes_the_number_of_a_question(tmp_path: Path) -> None:
    questions = tiny.read("vizwiz", tmp_path)
    answers = [Answer("0", "can"), Answer("1", "Unanswerable")]
    score = tiny.score("vizwiz", questions, answers)
    first = (3 * (2 / 3) + 8 * 1) / 11
    assert score.official["accuracy"].value == pytest.approx(100 * (first + 1) / 2)
    assert questions[0].prompt == (
        "What is it?\nWhen the provided information is insufficient, respond with 'Unanswerable'.\n"
        "Answer the question using a single word or phrase."
    )


def test_llava_w_is_a_ratio_of_means_and_failed_reviews_are_apart(tmp_path: Path) -> None:
    figures, score = _answers(
        "llava-w", tmp_path, ["8 4\nBecause.", "8, 8", "10 5", "no grades here"]
    )
    # Two blanks are no separator to the original, which then counts -1 and -1.
    assert figures["ratio"] == pytest.approx(100 * (4 - 1 + 5 - 1) / (8 - 1 + 10 - 1), abs=0.02)
    assert score.lenient["ratio"].value == pytest.approx(50)
    assert score.unparsed == ["1", "3"]


def test_mm_vet_by_capability_and_by_sorted_set(tmp_path: Path) -> None:
    figures, score = _answers("mm-vet", tmp_path, ["0.5", "1.0\n0.0", "no idea", "7"])
    assert figures["grade"] == pytest.approx(100 * (0.5 + 0.5) / 4)
    assert figures["set: math,ocr"] == 25
    assert (figures["rec"], figures["ocr"]) == (25, 25)
    assert score.unparsed == ["v1_2", "v1_3"]


def test_pope_is_the_mean_f1_of_its_categories(tmp_path: Path) -> None:
    # Files in order: adversarial, popular, random; labels yes, no, yes, no.
    texts = ["Yes", "No", "Yes", "No", "Yes", "Yes", "No", "No", "No", "Yes", "No", "Yes"]
    figures, _ = _answers("pope", tmp_path, texts)
    assert figures["F1: adversarial"] == 100
    assert figures["F1: popular"] == 50
    assert figures["F1: random"] == 0
    assert figures["F1"] == 50
    assert figures["accuracy"] == 50
    assert figures["yes"] == 50


def test_pope_takes_answers_under_the_ids_of_llavas_list(tmp_path: Path) -> None:
    questions = tiny.read("pope", tmp_path)
    rows = [
        {"question_id": 100 + n, "image": one.image, "category": one.labels["category"],
         "text": one.prompt}
        for n, one in enumerate(reversed(questions))
    ]  # fmt: skip
    tiny.write_lines(tmp_path / "llava_pope_test.jsonl", rows)
    questions = read_questions(BENCHMARKS["pope"], str(tmp_path))
    golds = {one.prompt: str(one.gold) for one in questions}
    answers = [
        Answer(str(row["question_id"]), golds[str(row["text"])], str(row["text"])) for row in rows
    ]
    score = tiny.score("pope", questions, answers)
    assert (score.official["F1"].value, score.matched.missing) == (100, [])


def test_bare_ids_that_three_files_share_lead_nowhere(tmp_path: Path) -> None:
    questions = tiny.read("pope", tmp_path)
    with pytest.raises(InputError, match="found id '1', expected one such as 'adversarial/1'"):
        tiny.score("pope", questions, [Answer("1", "Yes")])


def test_a_missing_answer_of_pope_is_a_wrong_one(tmp_path: Path) -> None:
    questions = tiny.read("pope", tmp_path)
    score = tiny.score("pope", questions, [tiny.answer(questions[0], "Yes")])
    assert score.official["accuracy"].value == pytest.approx(100 / 12)
    assert score.official["F1"].n == 12


def test_mmstar_reads_options_inside_the_question(tmp_path: Path) -> None:
    questions = tiny.read("mmstar", tmp_path)
    assert questions[0].options == {"A": "a cat", "B": "a dog, red", "C": "two", "D": "none"}
    texts = ["a dog, red", "The answer is D", "(A)"]
    answers = [tiny.answer(one, text) for one, text in zip(questions, texts, strict=True)]
    score = tiny.score("mmstar", questions, answers)
    assert score.official["accuracy"].value == pytest.approx(200 / 3)
    assert score.official["category: math"].value == 100
    assert score.lenient["accuracy"].value == 100


def test_every_benchmark_names_its_source_its_licence_and_how_the_paper_asked() -> None:
    table = list_sources()
    for name, benchmark in BENCHMARKS.items():
        assert name in table
        assert benchmark.source.origin in table
        assert benchmark.source.licence in table
        assert benchmark.scorer
    assert sum(len(one.published) for one in BENCHMARKS.values()) == 11
    modes = {name: one.generation.image_mode for name, one in BENCHMARKS.items()}
    cropped = {name for name, mode in modes.items() if mode == "crop"}
    assert cropped == {"llava-w", "mm-vet", "scienceqa", "qbench"}
    assert BENCHMARKS["mme"].generation.max_tokens == 128
    assert BENCHMARKS["qbench"].generation.template == "share4v_v1"
