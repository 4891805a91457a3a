"""An input that grows between runs: exactly what is new is captioned, also after a kill."""

import os
import random
import shutil
import time
from collections import Counter
from pathlib import Path

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.export import export_run
from s4v_core.captioning.job import CaptionJob
from s4v_core.images.policy import DecodeConfig
from s4v_core.records.captions import caption_units
from s4v_core.runs.outcome import DONE
from s4v_core.runs.verification import verify_run
from tests.conftest import photo, write_tar
from tests.flow.oracle import check_rows, fake_caption_of, read_rows
from tests.flow.scripts import FAKE, kill, run, start, unit_times, wait_for_units

FLAGS = [*FAKE, "--unit-size", "20", "--decode.no-reduced-jpeg"]


def _write(folder: Path, numbers: range | list[int], first_seed: int = 0) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        path = folder / f"{number:05d}.jpg"
        path.write_bytes(photo(first_seed + number, (60 + number % 7, 40)))


def _check_captions(images: Path, output: Path, gone: list[int]) -> dict[str, dict]:
    """Compare every row with its image of today; returns the rows."""
    rows = {row["image_id"]: row for row in check_rows(output)}
    today = {path.name: path.read_bytes() for path in images.glob("*.jpg")}
    assert rows.keys() == today.keys() | {f"{number:05d}.jpg" for number in gone}
    for name, data in today.items():
        assert rows[name]["caption"] == fake_caption_of(data), name
    return rows


@pytest.mark.parametrize("count", [100, pytest.param(1000, marks=pytest.mark.slow)])
def test_a_folder_grows_and_a_kill_in_between_costs_nothing(tmp_path: Path, count: int) -> None:
    images, output = tmp_path / "in", tmp_path / "out"
    _write(images, range(count))
    flags = ["--input", str(images), "--output", str(output), *FLAGS]
    code, _, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == DONE, err
    before = {row["image_id"]: row for row in read_rows(output)}

    chance = random.Random(7)
    picked = chance.sample(range(count), count * 7 // 100)
    replaced, removed = picked[: count // 20], picked[count // 20 :]
    added = range(count, count + count * 32 // 100)
    for number in removed:
        (images / f"{number:05d}.jpg").unlink()
    _write(images, replaced, first_seed=5000)
    _write(images, added)
    times = unit_times(output)
    process = start("caption.py", *flags, cwd=tmp_path)
    wait_for_units(output, len(times) + 1, process)
    kill(process)
    check_rows_are_unique(output)

    code, out, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == DONE, err
    assert f"{len(removed)} planned images are no longer in the input" in out
    rows = _check_captions(images, output, gone=removed)
    new = {name for name, row in rows.items() if row != before.get(name)}
    assert new == {f"{number:05d}.jpg" for number in (*replaced, *added)}
    assert verify_run(caption_units(str(output))).is_sound

    code, out, _ = run("caption.py", *flags, cwd=tmp_path)
    assert code == DONE
    assert f"{added[-1] + 1} images were done before this run, 0 done or redone by it" in out


def check_rows_are_unique(output: Path) -> None:
    """Whatever lies there at any time, no image has two rows."""
    counts = Counter(row["image_id"] for row in read_rows(output))
    assert max(counts.values()) == 1


# In this process, for further ways to grow.


def _job(images: Path, output: Path, **changes: object) -> CaptionJob:
    return CaptionJob(
        input=(str(images),),
        output=str(output),
        model="none",
        engine="fake",
        unit_size=10,
        decode=DecodeConfig(reduced_jpeg=False),
        **changes,  # type: ignore[arg-type]
    )


def _pass(images: Path, output: Path) -> int:
    """Run the pass; returns how many captions it made."""
    outcome = run_pass(_job(images, output))
    assert outcome.exit_code == DONE, outcome.as_text()
    return outcome.figures.attempts


@pytest.mark.usefixtures("local_ray")
def test_a_shard_that_is_written_again_costs_only_its_new_images(tmp_path: Path) -> None:
    images, output = tmp_path / "in", tmp_path / "out"
    members = {f"{n}.jpg": photo(n, (60, 40)) for n in range(25)}
    write_tar(images / "0.tar", members)
    write_tar(images / "1.tar", members)
    assert _pass(images, output) == 50
    changed = {"new.jpg": photo(99, (60, 40))} | members | {"3.jpg": photo(77, (60, 40))}
    del changed["24.jpg"]
    write_tar(images / "1.tar", changed)
    assert _pass(images, output) == 2
    rows = {row["image_id"]: row for row in check_rows(output)}
    assert len(rows) == 51
    for name, data in changed.items():
        assert rows[f"1/{Path(name).stem}"]["caption"] == fake_caption_of(data)
    assert rows["0/3"]["caption"] == fake_caption_of(members["3.jpg"])


@pytest.mark.usefixtures("local_ray")
def test_a_copied_folder_with_new_times_costs_no_caption(tmp_path: Path) -> None:
    images, output = tmp_path / "in", tmp_path / "out"
    _write(images, range(25))
    assert _pass(images, output) == 25
    rows = read_rows(output)
    for path in images.iterdir():
        os.utime(path, (time.time() + 9, time.time() + 9))
    assert _pass(images, output) == 0
    assert read_rows(output) == rows
    assert verify_run(caption_units(str(output))).is_sound
    assert _pass(images, output) == 0


@pytest.mark.usefixtures("local_ray")
def test_inputs_may_be_added_in_front_and_grow_three_times(tmp_path: Path) -> None:
    output = tmp_path / "out"
    for number, name in enumerate(("b", "a", "c")):
        _write(tmp_path / name, range(12), first_seed=100 * number)
    inputs: tuple[str, ...] = ()
    for count, name in enumerate(("b", "a", "c"), 1):
        inputs = (str(tmp_path / name), *inputs)
        outcome = run_pass(_job(tmp_path, output).replace(input=inputs))
        assert (outcome.exit_code, outcome.figures.attempts) == (DONE, 12)
        assert len(check_rows(output)) == 12 * count
    for row in read_rows(output):
        assert row["caption"] == fake_caption_of(Path(row["uri"]).read_bytes())
    target = tmp_path / "captions.jsonl"
    export_run(str(output), str(target))
    assert len(target.read_text().splitlines()) == 36


@pytest.mark.usefixtures("local_ray")
def test_a_file_replaced_before_its_unit_was_done_gets_the_caption_of_the_new_one(
    tmp_path: Path,
) -> None:
    images, output = tmp_path / "in", tmp_path / "out"
    _write(images, range(30))
    assert _pass(images, output) == 30
    (output / "captions" / "unit-000001.parquet").unlink()
    _write(images, [5, 15], first_seed=900)
    assert _pass(images, output) == 11
    _check_captions(images, output, gone=[])


@pytest.mark.usefixtures("local_ray")
def test_retrying_errors_also_does_what_is_new(tmp_path: Path) -> None:
    images, output = tmp_path / "in", tmp_path / "out"
    _write(images, range(15))
    (images / "bad.jpg").write_bytes(b"no image")
    assert _pass(images, output) == 15
    _write(images, range(20))
    shutil.copy(images / "00001.jpg", images / "bad.jpg")
    outcome = run_pass(_job(images, output, retry_errors=True))
    assert outcome.exit_code == DONE
    rows = {row["image_id"]: row for row in check_rows(output)}
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert len(rows) == 21
