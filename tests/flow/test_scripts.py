"""The entry scripts as users run them: exit codes, error sentences, and resuming after a kill."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest

from tests.conftest import photo, write_tar
from tests.flow.oracle import check_rows, read_rows
from tests.flow.scripts import FAKE, kill, run, start, wait_for_units


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sixteen small shards, so that a run has units to lose."""
    folder = tmp_path_factory.mktemp("many")
    for shard in range(16):
        members = {f"{n:03d}.jpg": photo(100 * shard + n, (64, 48)) for n in range(20)}
        write_tar(folder / "shards" / f"{shard:04d}.tar", members)
    return folder


SLOW = ["--settings.fake-latency-s", "0.5", "--settings.max-num-seqs", "8"]
"""The 20 images of a unit take more than a second, which leaves time to interrupt the run."""


def test_a_run_killed_with_9_resumes_with_every_row_once(many: Path, tmp_path: Path) -> None:
    flags = ["--input", str(many / "shards"), "--output", str(tmp_path / "out"), *FAKE, *SLOW]
    process = start("caption.py", *flags, cwd=tmp_path)
    wait_for_units(tmp_path / "out", 3, process)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    time.sleep(3)  # workers finish the units they work on
    files = {f: f.stat().st_mtime_ns for f in (tmp_path / "out" / "captions").glob("*.parquet")}
    code, out, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 0, err
    assert len(check_rows(tmp_path / "out")) == 320
    assert f"{20 * len(files)} images were done before this run" in out
    assert all(f.stat().st_mtime_ns == before for f, before in files.items())


def test_the_first_ctrl_c_drains_and_the_run_resumes(many: Path, tmp_path: Path) -> None:
    flags = ["--input", str(many / "shards"), "--output", str(tmp_path / "out"), *FAKE, *SLOW]
    process = start("caption.py", *flags, cwd=tmp_path)
    wait_for_units(tmp_path / "out", 2, process)
    os.kill(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "finishing the units in flight" in err
    rows = read_rows(tmp_path / "out")
    assert 40 <= len(rows) < 320
    code, _, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 0, err
    assert len(check_rows(tmp_path / "out")) == 320


def test_a_terminated_script_ends_within_two_seconds(many: Path, tmp_path: Path) -> None:
    flags = ["--input", str(many / "shards"), "--output", str(tmp_path / "out"), *FAKE, *SLOW]
    process = start("caption.py", *flags, cwd=tmp_path)
    wait_for_units(tmp_path / "out", 1, process)
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=10)
    assert time.monotonic() - started < 2
    assert process.returncode == 143
    assert "run the same command again to resume" in err


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["--model", "/does/not/exist"], "model: no such folder: /does/not/exist"),
        (["--engine", "fake", "--input", "empty"], "empty: found no images"),
        (["--engine", "fake", "--input", "*.jpg"], "no file matches this pattern"),
        (["--engine", "fake", "--inptu", "x"], "did you mean --input?"),
        (["--engine", "fake", "--limit", "-5"], "limit: found -5"),
        (["--engine", "openai"], "set --settings.url"),
        (["--engine", "fake", "--prompts", "nothing.txt"], "nothing.txt is no readable text file"),
    ],
)
def test_bad_input_is_one_sentence_and_exit_code_2_and_touches_nothing(
    tmp_path: Path, flags: list[str], sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "photo.jpeg").write_bytes(photo(1))
    defaults = {"--input": "photo.jpeg", "--output": "out", "--model": "none"}
    given = [part for name in defaults.keys() - set(flags) for part in (name, defaults[name])]
    code, _, err = run("caption.py", *given, *flags, cwd=tmp_path)
    assert code == 2
    assert sentence in err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["empty", "photo.jpeg"]


def test_status_and_export_of_a_folder_without_a_run_say_so(tmp_path: Path) -> None:
    for script, flags in (("status.py", []), ("export.py", ["--to", "x.json"])):
        code, _, err = run(script, str(tmp_path), *flags, cwd=tmp_path)
        assert code == 2
        assert "holds no run" in err
    assert not list(tmp_path.iterdir())


def test_status_and_export_after_a_run(many: Path, tmp_path: Path) -> None:
    flags = ["--input", str(many / "shards" / "0000.tar"), "--output", "out", *FAKE]
    code, out, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 0, err
    assert "20 of 20 images (100.0 %): 20 ok, 0 rejected, 0 errors" in out
    assert "Traceback" not in err
    assert "WARNING" not in err
    code, out, _ = run("status.py", "out", cwd=tmp_path)
    assert code == 0
    assert "20 of 20 images (100.0 %)" in out
    code, out, _ = run("export.py", "out", "--to", "captions.json", cwd=tmp_path)
    assert code == 0
    assert "20 rows written to captions.json" in out


def test_two_runs_on_one_output_share_the_work_without_a_duplicate(
    many: Path, tmp_path: Path
) -> None:
    flags = ["--input", str(many / "shards"), "--output", str(tmp_path / "out"), *FAKE]
    flags += ["--settings.fake-latency-s", "0.1", "--settings.max-num-seqs", "8"]
    runs = [start("caption.py", *flags, cwd=tmp_path) for _ in range(2)]
    for one in runs:
        _, err = one.communicate(timeout=240)
        assert one.returncode == 0, err
    assert len(check_rows(tmp_path / "out")) == 320


def test_an_engine_actor_killed_during_a_run_costs_no_row(many: Path, tmp_path: Path) -> None:
    flags = ["--input", str(many / "shards"), "--output", str(tmp_path / "out"), *FAKE, *SLOW]
    process = start("caption.py", *flags, cwd=tmp_path)
    wait_for_units(tmp_path / "out", 2, process)
    workers = psutil.Process(process.pid).children(recursive=True)
    [actor] = [worker for worker in workers if "EngineActor" in worker.cmdline()[0]]
    actor.kill()
    _, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert len(check_rows(tmp_path / "out")) == 320


def test_a_local_cluster_has_room_for_all_engines_or_says_what_is_missing(
    many: Path, tmp_path: Path, checkpoint: Path
) -> None:
    flags = ["--input", str(many / "shards" / "0000.tar"), "--output", "out", "--engines", "5"]
    on_gpu = ["--model", str(checkpoint), "--engine", "transformers", "--settings.device", "gpu"]
    code, _, err = run("caption.py", *flags, *on_gpu, cwd=tmp_path)
    assert code == 2
    assert "0 GPUs, needed 11.25 and 5; lower --engines, or set --settings.device cpu" in err
    assert not (tmp_path / "out").exists()
    code, _, err = run("caption.py", *flags, *FAKE, cwd=tmp_path)
    assert code == 0, err
    assert len(check_rows(tmp_path / "out")) == 20


@pytest.mark.slow
def test_a_drain_that_takes_too_long_ends_by_itself(many: Path, tmp_path: Path) -> None:
    flags = ["--input", str(many / "shards"), "--output", str(tmp_path / "out"), *FAKE]
    process = start("caption.py", *flags, "--settings.fake-latency-s", "300", cwd=tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "out" / "run.json").exists():
        assert time.monotonic() < deadline
        time.sleep(0.1)
    time.sleep(15)  # the engines now work on requests that they will not finish
    os.kill(process.pid, signal.SIGINT)
    started = time.monotonic()
    _, err = process.communicate(timeout=90)
    assert time.monotonic() - started < 60
    assert process.returncode == 130, err
    assert "run the same command again to resume" in err
    assert "Traceback" not in err


def test_a_run_does_not_join_the_private_ray_of_another_one(tmp_path: Path) -> None:
    """Without RAY_ADDRESS each of two runs has a Ray of its own: killing one leaves the other."""
    members = {f"{n:03d}.jpg": photo(n, (64, 48)) for n in range(480)}
    shard = write_tar(tmp_path / "0.tar", members)
    flags = [*FAKE, "--input", str(shard), "--unit-size", "8"]
    flags += ["--settings.fake-latency-s", "0.3", "--settings.max-num-seqs", "8"]
    free = {"RAY_ADDRESS": ""}
    first = start("caption.py", *flags, "--output", str(tmp_path / "one"), cwd=tmp_path, **free)
    second = start("caption.py", *flags, "--output", str(tmp_path / "two"), cwd=tmp_path, **free)
    wait_for_units(tmp_path / "one", 1, first)
    wait_for_units(tmp_path / "two", 1, second)
    assert first.poll() is None
    kill(first)
    _, err = second.communicate(timeout=240)
    assert second.returncode == 0, err
    assert len(check_rows(tmp_path / "two")) == 480
