"""What a model is asked: which questions, about which files, framed how. No engine runs."""

import json
from pathlib import Path

import pytest

from s4v_core.demo.benchmark_files import write_benchmarks
from s4v_core.errors import ConfigError, InputError
from s4v_core.evaluation.answer_task import ANSWERS, AnswerTask, Asked
from s4v_core.evaluation.asking import check_evaluation, choose_framing, list_asked, list_rows
from s4v_core.evaluation.benchmark import Generation
from s4v_core.evaluation.catalogue import BENCHMARKS
from s4v_core.evaluation.data_places import find_data, place_images
from s4v_core.evaluation.job import EvalJob
from s4v_core.evaluation.scoring import read_questions, score_answers
from s4v_core.images.policy import Framing
from s4v_core.inputs.image_bytes import read_images
from tests.conftest import SHARED_DATA, photo
from tests.evaluation import tiny


def _job(folder: Path, names: str, **more: object) -> EvalJob:
    known = {"model": "none", "engine": "fake", "output": str(folder / "out")}
    return EvalJob.model_validate(
        known | {"benchmarks": names, "data": str(folder / "data")} | more
    )


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_benchmark_finds_its_images_where_its_release_has_them(
    name: str, tmp_path: Path
) -> None:
    benchmark = BENCHMARKS[name]
    data = tiny.MAKERS[name](tmp_path)
    questions = [one for one in read_questions(benchmark, str(data)) if benchmark.is_asked(one)]
    assert questions
    if benchmark.read_pictures is None:
        for question in questions:
            if question.image:
                path = data / benchmark.name_images(question)[0]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(question.key.encode())
    places = place_images(benchmark, questions, str(data), None, str(tmp_path / "out"))
    for question, place in zip(questions, places, strict=True):
        is_shown = bool(question.image) or benchmark.read_pictures is not None
        assert place.problem is None, (name, place)
        assert (place.container is not None) == is_shown
        if is_shown:
            (found,) = read_images([place.as_columns()])
            assert isinstance(found, bytes)
            assert found


def test_videos_are_not_asked_about(tmp_path: Path) -> None:
    tiny.make_seed(tmp_path / "data")
    checked = check_evaluation(_job(tmp_path, "seed"))
    (one,) = checked.sets
    assert [question.key for question in one.questions] == ["11", "12", "13"]
    assert one.left_out == 1


def test_an_image_is_found_by_its_name_alone_unless_several_have_it(tmp_path: Path) -> None:
    data = tiny.make_pope(tmp_path / "data")
    questions = read_questions(BENCHMARKS["pope"], str(data))
    for folder in ("a", "b"):
        (data / folder).mkdir()
        (data / folder / "COCO_1.jpg").write_bytes(b"x")
    (data / "a" / "COCO_0.jpg").write_bytes(b"x")
    places = place_images(BENCHMARKS["pope"], questions, str(data), None, "unused")
    found = {q.image: place.problem for q, place in zip(questions, places, strict=True)}
    assert found == {"COCO_0.jpg": None, "COCO_1.jpg": "not_found"}
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "COCO_1.jpg").write_bytes(b"y")
    more = str(tmp_path / "more")
    places = place_images(BENCHMARKS["pope"], questions, str(data), more, "unused")
    assert {place.problem for place in places} == {None}


def test_pictures_of_a_table_are_kept_once_each_and_read_back(tmp_path: Path) -> None:
    write_benchmarks(tmp_path / "demo", 2)
    data, benchmark = str(tmp_path / "demo" / "mmbench"), BENCHMARKS["mmbench"]
    questions, output = read_questions(benchmark, data), str(tmp_path / "out")
    places = place_images(benchmark, questions, data, None, output)
    assert places == place_images(benchmark, questions, data, None, output)
    assert len(set(places)) == 2  # scenes
    images = read_images([place.as_columns() for place in places])
    drawn = {(tmp_path / f"demo/mme/count/0000{n}.jpg").read_bytes() for n in range(2)}
    assert set(images) == drawn
    write_benchmarks(tmp_path / "other", 3)
    other = str(tmp_path / "other" / "mmbench")
    with pytest.raises(InputError, match="holds the images of other questions"):
        place_images(benchmark, read_questions(benchmark, other), other, None, output)


def test_a_cell_may_name_the_row_that_holds_its_picture(tmp_path: Path) -> None:
    text = (
        "index\tquestion\tA\tB\tanswer\timage\n"
        "7\tWhich?\ta\tb\tA\taW1n\n1000007\tWhich?\tb\ta\tB\t7\n"
    )
    (tmp_path / "mmbench_dev_20230712.tsv").write_text(text)
    read = BENCHMARKS["mmbench"].read_pictures
    assert read
    assert read(str(tmp_path)) == {"7": b"img", "1000007": b"img"}


@pytest.mark.parametrize(
    ("mode", "own", "expected"),
    [
        ("model", Framing("pad", 336), Framing("pad", 336)),
        ("paper", Framing("pad", 336), Framing("crop", 336)),
        ("crop", Framing("pad", 336), Framing("crop", 336)),
        ("pad", Framing("crop", 112), Framing("pad", 112)),
        ("model", Framing("fit", 1344), Framing("fit", 1344)),
        ("paper", Framing("fit", 1344), Framing("crop", 336)),
        ("paper", Framing("area", 900), Framing("area", 900)),
    ],
)
def test_the_image_mode_decides_the_framing(mode: str, own: Framing, expected: Framing) -> None:
    generation = Generation(max_tokens=8, image_mode="crop")
    assert choose_framing(mode, own, generation) == expected  # type: ignore[arg-type]


def test_a_model_that_takes_whole_pictures_gets_no_squares() -> None:
    with pytest.raises(ConfigError, match="image_mode: found pad, but this model takes whole"):
        choose_framing("pad", Framing("area", 900), Generation(8, "crop"))


def test_pad_and_crop_are_different_pictures(tmp_path: Path) -> None:
    pictures = []
    for mode in ("pad", "crop"):
        framing = Framing(mode, 112)  # type: ignore[arg-type]
        task = AnswerTask("m", "r", "fake", {}, framing)
        payload = json.dumps(json.loads(Asked("mme", "k", "Q?", framing, _greedy(tmp_path)).dump()))
        prepared = task.prepare({"payload": payload, "uri": "x"}, photo(3, (300, 200)))
        pictures.append(prepared.pictures[0].tobytes())
        assert prepared.about.asked.framing == framing
    assert pictures[0] != pictures[1]


def _greedy(folder: Path) -> object:
    tiny.make_qbench(folder / "data")
    checked = check_evaluation(_job(folder, "qbench"))
    return list_asked(checked, checked.sets[0])[0].sampling


def test_settings_follow_the_scripts_of_the_paper(tmp_path: Path) -> None:
    tiny.make_qbench(tmp_path / "data/qbench")
    tiny.make_mme(tmp_path / "data/MME")
    checked = check_evaluation(_job(tmp_path, "mme,qbench", image_mode="paper"))
    mme, qbench = (list_asked(checked, one)[0] for one in checked.sets)
    assert (mme.sampling.max_tokens, qbench.sampling.max_tokens) == (128, 1024)
    assert (mme.sampling.temperature, mme.sampling.stop_at_loops) == (0.0, False)
    assert (mme.framing.mode, qbench.framing.mode) == ("pad", "crop")
    assert mme.system is None
    assert qbench.system is not None
    assert "a curious human" in qbench.system
    short = check_evaluation(_job(tmp_path, "mme,qbench", max_tokens=200))
    lengths = [list_asked(short, one)[0].sampling.max_tokens for one in short.sets]
    assert lengths == [128, 200]


def test_payloads_survive_the_plan(tmp_path: Path) -> None:
    tiny.make_qbench(tmp_path / "data")
    checked = check_evaluation(_job(tmp_path, "qbench"))
    rows = list_rows(checked)
    asked = list_asked(checked, checked.sets[0])
    assert [Asked.load(row["payload"]) for row in rows] == asked
    assert {row["problem"] for row in rows} == {"not_found"}
    assert {row["source"] for row in rows} == {"qbench"}


def test_a_question_without_an_answer_is_an_error_row_with_a_reason(tmp_path: Path) -> None:
    tiny.make_qbench(tmp_path / "data")
    checked = check_evaluation(_job(tmp_path, "qbench"))
    task = AnswerTask("m", "r", "fake", {}, Framing("pad", 336))
    for row in list_rows(checked):
        prepared = task.prepare(row, "not_found")
        found = task.fail(prepared.about, "engine_refused:x")
        assert (found["status"], found["reason"], found["attempts"]) == ("error", "not_found", 0)
        assert set(found) | {"run_id", "created_at"} == set(ANSWERS.schema.names)


def test_no_answer_at_all_is_a_score_of_nothing(tmp_path: Path) -> None:
    questions = tiny.read("mme", tmp_path)
    score = score_answers(BENCHMARKS["mme"], questions, [], "answers-mme.jsonl")
    assert len(score.matched.missing) == len(questions) == score.n
    assert score.official["perception"].value == 0.0


def test_the_folder_of_a_benchmark_has_its_name_or_one_that_it_often_has(tmp_path: Path) -> None:
    benchmark = BENCHMARKS["mmbench-cn"]
    (tmp_path / "mmbench_cn").mkdir()
    assert find_data(str(tmp_path), benchmark, is_only=False) == str(tmp_path / "mmbench_cn")
    (tmp_path / "mmbench-cn").mkdir()
    assert find_data(str(tmp_path), benchmark, is_only=True) == str(tmp_path / "mmbench-cn")
    assert find_data(str(tmp_path), BENCHMARKS["mme"], is_only=True) == str(tmp_path)
    with pytest.raises(InputError, match="found no folder mme or MME or"):
        find_data(str(tmp_path), BENCHMARKS["mme"], is_only=False)


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="needs the shared reference data")
def test_questions_of_a_release_are_asked_with_the_images_that_are_there(tmp_path: Path) -> None:
    data = SHARED_DATA / "benchmarks" / "sqa"
    job = EvalJob(
        model="none", engine="fake", benchmarks="scienceqa", data=str(data), output=str(tmp_path)
    )
    rows = list_rows(check_evaluation(job))
    assert len(rows) == 4241
    kinds = {(row["container"], row["problem"]) for row in rows}
    assert kinds == {(None, None), ("file", None), ("file", "not_found")}
