"""The whole study at sizes at which nothing is learned: real passes, trainings and exams."""

import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from s4v_core.reproduction.job import ReproduceJob
from s4v_core.reproduction.running import open_reproduction

ROOT = Path(__file__).resolve().parents[2]
_LIMIT_S = 3600
_KILLS = 5
_LAST_END_S = 180
"""Ray's agents look for their head, which was killed too, for a minute before they end."""

pytestmark = pytest.mark.timeout(6 * _LIMIT_S)


def _start(output: Path) -> "subprocess.Popen[bytes]":
    flags = ("demo", "--quick", "--seeds", "1", "--study", "table4", "--output", str(output))
    with (output.parent / f"{output.name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, str(ROOT / "ray_jobs" / "reproduce.py"), *flags],
            cwd=output.parent,
            env=os.environ | {"RAY_ADDRESS": "local", "PYTHONPATH": str(ROOT)},
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )


def _finish(output: Path) -> None:
    driver = _start(output)
    assert driver.wait(_LIMIT_S) == 0, (output.parent / f"{output.name}.log").read_text()[-3000:]


def _read_scores(output: Path) -> dict[str, object]:
    """The credits of every exam, by the name of its folder."""
    exams = (output / "runs").glob("eval-*")
    return {exam.name: (exam / "credits.json").read_bytes() for exam in exams}


def _read_results(output: Path) -> dict[str, object]:
    """What models became, captioned and answered. Models of this size have no right answer, so
    that credits alone would be alike whatever went wrong."""
    weights = {
        str(path.relative_to(output)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in (output / "runs").glob("*/model/*.safetensors")
    }
    captions = [path.read_bytes() for path in (output / "runs").glob("export-*/captions.json")]
    answers = {
        (path.parent.name, path.name, line["question_id"]): line["text"]
        for path in (output / "runs").glob("eval-*/answers-*.jsonl")
        for line in map(json.loads, path.read_text().splitlines())
    }
    assert len(weights) == 8
    assert answers
    return {"weights": weights, "captions": captions, "answers": answers}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study that was never interrupted."""
    output = tmp_path_factory.mktemp("whole") / "study"
    _finish(output)
    return output


@pytest.mark.slow
def test_a_quick_study_runs_every_stage_and_reports(whole: Path) -> None:
    done = [json.loads(path.read_text()) for path in (whole / "done").iterdir()]
    scripts = {"dataset.py", "train_captioner.py", "caption.py", "export.py", "pretrain.py"}
    assert {one["script"] for one in done} == scripts | {"finetune.py", "eval.py"}
    assert len(_read_scores(whole)) == 4
    trained = [one for one in done if one["script"] in ("pretrain.py", "finetune.py")]
    assert len(trained) == 2 + 4
    assert all(one["tokens"] > 0 and one["samples"] > 0 for one in trained)
    settings = json.loads(next((whole / "runs").glob("caption-*/run.json")).read_text())
    assert "vllm" in json.dumps(settings)
    text = (whole / "report.html").read_text()
    assert "Unfinished" not in text
    assert "data:image/jpeg" in text


@pytest.mark.slow
def test_a_finished_study_runs_nothing_again(whole: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*")}
    _finish(whole)
    assert {path: path.stat().st_mtime_ns for path in (whole / "runs").rglob("*")} == before
    found = open_reproduction(ReproduceJob(quick=True, seeds=1, output=str(whole)))
    first = (whole / "report.html").read_bytes()
    found.report()
    assert (whole / "report.html").read_bytes() == first


@pytest.mark.faults
def test_a_driver_killed_five_times_comes_to_the_same_scores_bit_by_bit(
    whole: Path, tmp_path: Path
) -> None:
    chance, output = random.Random(0), tmp_path / "study"
    total = len(list((whole / "done").iterdir()))
    moments = sorted(chance.sample(range(total), _KILLS))
    for moment in moments:
        driver = _start(output)
        _wait_for_done(output, moment, driver)
        time.sleep(chance.uniform(0, 15))  # in the middle of the next command, wherever it is
        family = psutil.Process(driver.pid).children(recursive=True)
        driver.send_signal(signal.SIGKILL)
        driver.wait()
        _, alive = psutil.wait_procs(family, _LAST_END_S)
        assert not alive
    _finish(output)
    assert _read_results(output) == _read_results(whole)
    assert _read_scores(output) == _read_scores(whole)


def _wait_for_done(output: Path, count: int, driver: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + _LIMIT_S
    while not (output / "done").exists() or len(list((output / "done").iterdir())) < count:
        assert driver.poll() is None, (output.parent / f"{output.name}.log").read_text()[-3000:]
        assert time.monotonic() < deadline
        time.sleep(0.2)
