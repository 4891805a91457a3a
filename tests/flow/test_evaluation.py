"""Models that are asked the questions of benchmarks: in the whole flow, killed, and resumed."""

import asyncio
import json
import os
import random
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from s4v_core.demo.benchmark_files import write_benchmarks
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.choice import build_engine
from s4v_core.engines.settings import EngineName, EngineSettings, EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.evaluation.answer_task import AnswerTask
from s4v_core.evaluation.asking import check_evaluation, list_rows
from s4v_core.evaluation.evaluating import Answers, ask_questions, publish_scores, score_questions
from s4v_core.evaluation.forecast import make_forecast
from s4v_core.evaluation.job import EvalJob
from s4v_core.evaluation.scoring import Score
from serve.keys import make_key
from tests.flow.browser import browser, needs_chromium
from tests.flow.oracle import fake_caption_of
from tests.flow.scripts import ROOT, kill, run, start
from tests.perf.servers import free_port
from tests.serve.service import ALONE

pytestmark = pytest.mark.timeout(600)

SCENES = 4
QUESTIONS = {"mme": SCENES * 8, "mmbench": SCENES * 12}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks") / "data"
    write_benchmarks(folder, SCENES)
    return folder


def _build_job(data: Path, output: Path, **more: Any) -> EvalJob:
    known = {"model": "none", "engine": "fake", "benchmarks": "mme,mmbench"}
    known |= {"settings": EngineSettings(cpus=1, max_num_seqs=8)}
    return EvalJob(data=str(data), output=str(output), **known | more)


def _evaluate(job: EvalJob) -> tuple[Answers, list[Score]]:
    answers = ask_questions(job)
    scores = score_questions(answers)
    publish_scores(answers, scores)
    return answers, scores


def read_rows(output: Path) -> dict[str, dict[str, Any]]:
    """The rows of a run by answer_id; each exists once."""
    files = sorted((output / "answers").glob("*.parquet"))
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    found = {row["answer_id"]: row for row in rows}
    assert len(found) == len(rows)
    return found


@dataclass(frozen=True)
class Finished:
    """A run in which engine fake answered all questions."""

    job: EvalJob
    answers: Answers
    scores: list[Score]

    @property
    def output(self) -> Path:
        return Path(self.job.output)


@pytest.fixture(scope="module")
def finished(local_ray: None, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    job = _build_job(data, tmp_path_factory.mktemp("finished") / "out", unit_size=16)
    return Finished(job, *_evaluate(job))


def test_every_question_is_asked_once_with_its_own_picture(finished: Finished) -> None:
    assert finished.answers.outcome.exit_code == 0
    rows = read_rows(finished.output)
    assert len(rows) == sum(QUESTIONS.values())
    for row in rows.values():
        if row["benchmark"] == "mme":
            image = Path(row["image"]).read_bytes()
            assert row["answer"] == fake_caption_of(image), row["answer_id"]
        assert (row["status"], row["framing"]) == ("ok", "crop 336")
        assert json.loads(row["sampling"])["temperature"] == 0.0
    # The three questions of a scene, in all rotations, are about one picture.
    assert len({row["answer"] for row in rows.values() if row["benchmark"] == "mmbench"}) == SCENES
    asked = {score.benchmark.name: score.n for score in finished.scores}
    assert asked == QUESTIONS
    stored = json.loads((finished.output / "scores.json").read_text())["scores"]
    assert [one["n_missing"] for one in stored] == [0, 0]
    assert [one["asked"]["framing"] for one in stored] == ["crop 336", "crop 336"]
    assert (finished.output / "mmbench_upload.xlsx").exists()


def test_a_finished_run_asks_nothing_and_writes_the_same_scores(finished: Finished) -> None:
    before = (finished.output / "scores.json").read_bytes()
    again, _ = _evaluate(finished.job)
    assert (again.outcome.found_done, again.outcome.figures.made) == (80, 0)
    assert (finished.output / "scores.json").read_bytes() == before
    with pytest.raises(ConfigError, match="was made with image_mode 'model', found 'pad'"):
        ask_questions(finished.job.replace(image_mode="pad"))


def test_stored_answers_of_a_run_have_the_same_score(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from ray_jobs import eval as script

    for score in finished.scores:
        name = score.benchmark.name
        file = str(finished.output / f"answers-{name}.jsonl")
        flags = ["--benchmarks", name, "--data", f"{finished.job.data}/{name}", "--output"]
        assert script.main([*flags, str(tmp_path / name), "--score-only", file]) == 0
        (found,) = json.loads((tmp_path / name / "scores.json").read_text())["scores"]
        assert found["official"] == score.as_json()["official"]
        assert (found["n_unknown"], found["n_missing"]) == (0, 0)
    capsys.readouterr()


def test_an_image_that_cannot_be_decoded_is_a_counted_row(
    local_ray: None, data: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "data"
    shutil.copytree(data, broken)
    (broken / "mme/count/00000.jpg").write_bytes(b"no picture")
    (broken / "mme/color/00001.jpg").unlink()
    answers, (score,) = _evaluate(_build_job(broken, tmp_path / "out", benchmarks="mme"))
    assert score.n == QUESTIONS["mme"]
    assert dict(score.reasons) == {"not_an_image": 2, "not_found": 2}
    assert len(score.matched.missing) == 4
    assert score.official["count"].n == score.official["color"].n == SCENES * 2
    assert answers.outcome.exit_code == 0
    stored = json.loads((tmp_path / "out/scores.json").read_text())["scores"][0]
    assert (stored["questions"], stored["answered"]) == (32, 28)
    assert "2 not_an_image" in (tmp_path / "out/report.html").read_text()

    shutil.copy(data / "mme/count/00001.jpg", broken / "mme/count/00000.jpg")
    with pytest.raises(ConfigError, match="was made with rows"):  # other questions
        ask_questions(_build_job(broken, tmp_path / "out", benchmarks="mme"))


def test_a_plan_asks_a_sample_and_leaves_no_answers(
    local_ray: None, data: Path, tmp_path: Path
) -> None:
    from s4v_core.evaluation.evaluating import check_job

    job = _build_job(data, tmp_path / "out", plan=True, price_per_hour=3.6)
    found = make_forecast(check_job(job))
    assert found.questions == QUESTIONS
    assert found.sampled == sum(QUESTIONS.values())
    assert found.cost == pytest.approx(found.total_s / 1000)
    assert "80 questions at" in found.as_text()
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["forecast.json"]


def _kill_flags(data: Path, output: Path) -> list[str]:
    speed = ["--settings.fake-latency-s", "0.6", "--settings.max-num-seqs", "4"]
    known = ["--model", "none", "--engine", "fake", "--benchmarks", "mme,mmbench"]
    known += ["--unit-size", "2", "--settings.cpus", "1", "--settings.units-in-flight", "2"]
    return [*known, *speed, "--data", str(data), "--output", str(output)]


def _kill_and_resume(data: Path, tmp_path: Path, kills: int) -> None:
    """Kill a run at random moments; units that were done stay as they are."""
    chance, output = random.Random(kills), tmp_path / "out"
    before: dict[str, int] = {}
    for _ in range(kills):
        process = start("eval.py", *_kill_flags(data, output), cwd=tmp_path)
        wanted = len(before) + chance.randint(0, 1)
        deadline = time.monotonic() + 240
        while process.poll() is None and len(_list_units(output)) < wanted + 1:
            assert time.monotonic() < deadline
            time.sleep(chance.uniform(0.02, 0.4))
        assert process.poll() is None, "it ended before it was killed"
        kill(process)
        now = _list_units(output)
        assert before.items() <= now.items()  # nothing lost, nothing written again
        before = now
    code, out, err = run("eval.py", *_kill_flags(data, output), cwd=tmp_path)
    assert code == 0, err
    assert before.items() <= _list_units(output).items()
    assert len(read_rows(output)) == sum(QUESTIONS.values())
    done = sum(pq.read_metadata(output / "answers" / name).num_rows for name in before)
    assert f"{done} questions were done before this run, {80 - done} done or redone by it" in out


def _list_units(output: Path) -> dict[str, int]:
    return {file.name: file.stat().st_mtime_ns for file in (output / "answers").glob("*.parquet")}


def test_a_killed_evaluation_resumes_and_asks_nothing_again(data: Path, tmp_path: Path) -> None:
    _kill_and_resume(data, tmp_path, kills=1)


@pytest.mark.faults
@pytest.mark.timeout(3600)
def test_an_evaluation_killed_ten_times_loses_nothing(data: Path, tmp_path: Path) -> None:
    _kill_and_resume(data, tmp_path, kills=10)


@dataclass(frozen=True)
class Server:
    """The project's own server in a process of its own."""

    url: str
    key: str


@contextmanager
def _serve(folder: Path, **model: Any) -> Iterator[Server]:
    """Run `python -m serve` with one model."""
    secret, line = make_key("tests")
    (folder / "keys").write_text(f"{line}\n")
    known = {"id": "asked", "settings": {"cpus": 1, "max_num_seqs": 8}, "scaling": ALONE}
    guard = {"keys_file": str(folder / "keys"), "requests_per_minute": 100_000}
    args = {"models": [known | model], "ingress": ALONE, "guard": guard}
    config = folder / "serve.yaml"
    config.write_text(json.dumps({"applications": [{"name": "s4v", "args": args}]}))
    port = free_port()
    with (folder / "serve.log").open("w") as log:
        server: subprocess.Popen[str] = subprocess.Popen(
            [sys.executable, "-m", "serve", "--config", str(config), "--port", str(port)],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=log,
            text=True,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + 900
        while "ready:" not in (said := (folder / "serve.log").read_text()):
            assert server.poll() is None, said
            assert time.monotonic() < deadline, said
            time.sleep(0.5)
        yield Server(f"http://127.0.0.1:{port}/v1", secret)
    finally:
        kill(server)


def _evaluate_by_script(tmp_path: Path, data: Path, name: str, *flags: str, key: str = "") -> Path:
    known = ["--benchmarks", "mme,mmbench", "--image-mode", "model", "--data", str(data)]
    output = tmp_path / name
    told = [*known, "--output", str(output), "--max-tokens", "48", *flags]
    code, _, err = run("eval.py", *told, cwd=tmp_path, limit_s=1200, OPENAI_API_KEY=key)
    assert code == 0, err
    return output


def _read_scores(output: Path) -> list[Any]:
    stored = json.loads((output / "scores.json").read_text())["scores"]
    return [(one["official"], one["lenient"], one["n_missing"]) for one in stored]


def _read_texts(output: Path) -> dict[str, str]:
    return {key: row["answer"] for key, row in read_rows(output).items()}


def _compare_with_server(tmp_path: Path, data: Path, engine: str, model: str) -> None:
    """Ask a model here and behind the project's own server; answers and scores are the same."""
    flags = ("--engine", engine, "--model", model, "--settings.max-num-seqs", "8")
    here = _evaluate_by_script(tmp_path, data, "here", *flags, "--settings.cpus", "1")
    with _serve(tmp_path, path=model, engine=engine) as server:
        there = _evaluate_by_script(
            tmp_path, data, "there", "--endpoint", server.url, key=server.key
        )
    assert _read_texts(here) == _read_texts(there)
    assert _read_scores(here) == _read_scores(there)
    assert {row["model"] for row in read_rows(there).values()} == {"asked"}


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_an_endpoint_gives_the_answers_and_scores_of_the_engine_behind_it(
    data: Path, tmp_path: Path
) -> None:
    _compare_with_server(tmp_path, data, "fake", "none")


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_fine_tuned_demo_model_scores_alike_here_and_behind_the_projects_own_server(
    data: Path, tmp_path: Path
) -> None:
    flags = ["demo", "--demo-scenes", "64", "--output", str(tmp_path / "run"), "--epochs", "2"]
    process = start("finetune.py", *flags, cwd=tmp_path)
    _, err = process.communicate(timeout=1800)
    assert process.returncode == 0, err
    _compare_with_server(tmp_path, data, "vllm", str(tmp_path / "run/model"))


def test_an_endpoint_that_is_not_there_is_one_sentence(data: Path, tmp_path: Path) -> None:
    flags = ["--endpoint", "http://127.0.0.1:9/v1", "--benchmarks", "mme", "--data", str(data)]
    code, _, err = run("eval.py", *flags, "--output", str(tmp_path / "out"), cwd=tmp_path)
    assert code == 2
    assert "does not list its models" in err
    assert len(err.strip().splitlines()) == 1


async def _answer_all(
    task: AnswerTask, rows: list[dict[str, Any]], spec: EngineSpec
) -> dict[str, str]:
    """Answers of one engine to all rows at the same time."""
    engine = build_engine(spec)
    try:
        prepared = [task.prepare(row, Path(row["uri"]).read_bytes()) for row in rows]
        found = await asyncio.gather(
            *(task.answer(one.about, one.pictures, engine) for one in prepared)
        )
    finally:
        engine.close()
    return {row["answer_id"]: row["answer"] for row in found}


def _answer_in_batches(data: Path, tmp_path: Path, engine: EngineName, size: int) -> dict[str, str]:
    settings = EngineSettings(
        device="cpu", batch_size=size, max_num_seqs=size, cpus=1, kv_cache_gib=1
    )
    known = {"engine": engine, "model": str(CAPTIONER), "settings": settings}
    job = _build_job(data, tmp_path, **known, benchmarks="mme", limit=14, max_tokens=24)
    checked = check_evaluation(job)
    task = AnswerTask("demo", "1", engine, {}, checked.largest_framing)
    return asyncio.run(_answer_all(task, list_rows(checked), checked.engine))


@pytest.mark.parametrize("engine", ["transformers", pytest.param("vllm", marks=pytest.mark.slow)])
def test_batches_of_one_two_and_seven_give_the_same_greedy_answers(
    data: Path, tmp_path: Path, engine: EngineName
) -> None:
    found = [_answer_in_batches(data, tmp_path, engine, size) for size in (1, 2, 7)]
    assert found[0] == found[1] == found[2]
    assert len(found[0]) == 14
    assert len(set(found[0].values())) > 3


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_the_page_fits_the_window_and_loads_nothing(finished: Finished, width: int) -> None:
    place = (finished.output / "report.html").as_uri()
    with browser(viewport={"width": width, "height": 800}) as visit:
        visit.page.goto(place)
        assert visit.page.title() == "Evaluation: none"
        cards = visit.page.locator("article")
        assert cards.count() == 12
        cards.last.scroll_into_view_if_needed()
        shown = "Array.from(document.images).at(-1).decode().then(() => document.images.length)"
        assert visit.page.evaluate(shown) == 12
        wide = visit.page.evaluate("document.documentElement.scrollWidth")
        assert wide <= width
        assert "1618.7" in visit.page.inner_text("table >> nth=0")
        assert [url for url in visit.requests if not url.startswith("data:")] == [place]
        assert visit.errors == []
