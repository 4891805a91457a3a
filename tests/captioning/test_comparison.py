"""Two runs over the same images are compared image by image, whatever their units are."""

import subprocess
import sys
from pathlib import Path

import pytest

from s4v_core.captioning.comparison import Means, compare_runs, compare_words
from s4v_core.errors import InputError
from s4v_core.records.captions import caption_units
from s4v_core.records.schemas import table_of
from tests.captioning.captioned_run import caption_inputs
from tests.conftest import photo, write_tar

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    return write_tar(tmp_path / "in" / "0.tar", {f"{n:02d}.jpg": photo(n) for n in range(10)})


def _change_rows(output: Path, **columns: object) -> None:
    """Replace values of every row of a run; a function gets the row."""
    units = caption_units(str(output))
    for unit in units.list_done():
        rows = units.read(unit).to_pylist()
        for row in rows:
            row |= {name: v(row) if callable(v) else v for name, v in columns.items()}
        digest = units.read_account(unit).plan
        table = table_of(rows, units.contract.schema, "rows")
        units.commit(unit, digest, "run", table, heal=True)


def test_a_run_equals_itself(shard: Path, tmp_path: Path) -> None:
    caption_inputs(tmp_path / "a", shard)
    found = compare_runs(str(tmp_path / "a"), str(tmp_path / "a"))
    assert (found.both, found.captioned, found.equal, found.similarity) == (10, 10, 10, 10.0)
    assert (found.only_here, found.only_there, found.replaced, found.examples) == (0, 0, 0, [])
    assert "10 of 10 captions are equal (100.0%); their words are 100.0% alike" in found.as_text()
    assert "quality" not in found.as_text()


def test_differences_are_counted_with_other_units_and_other_images(
    shard: Path, tmp_path: Path
) -> None:
    caption_inputs(tmp_path / "a", shard, unit_size=4, units=2, rejected=("0/00",))
    caption_inputs(tmp_path / "b", shard, unit_size=3, mark="Red ", rejected=("0/01",))
    _change_rows(tmp_path / "a", quality=0.5, output_tokens=9)
    _change_rows(
        tmp_path / "b",
        quality=lambda row: 0.75 if row["image_id"] != "0/05" else None,
        image_sha256=lambda r: "0" * 64 if r["image_id"] == "0/02" else r["image_sha256"],
    )
    found = compare_runs(str(tmp_path / "a"), str(tmp_path / "b"))
    assert (found.both, found.replaced, found.only_here, found.only_there) == (7, 1, 0, 2)
    assert (found.failed_here, found.failed_there, found.captioned) == (1, 1, 5)
    assert found.equal == 0
    assert found.here == Means(words=5 * 4, tokens=5 * 9, scored=4, quality=2.0)
    assert found.there == Means(words=5 * 5, tokens=5 * 7, scored=4, quality=3.0)
    assert found.similarity == pytest.approx(5 * 8 / 9)
    assert len(found.examples) == 5
    text = found.as_text()
    assert "mean quality 0.5000 here, 0.7500 there (-0.2500)" in text
    assert "4.0 words a caption here, 5.0 there (-1.0)" in text
    assert "there: Red A picture, named 0/03." in text


def test_words_are_compared_as_a_bag() -> None:
    assert compare_words("A red car", "a car red") == 1.0
    assert compare_words("a dog", "two cats") == 0.0
    assert compare_words("a a b", "a b b") == pytest.approx(2 / 3)


def test_another_folder_is_refused(shard: Path, tmp_path: Path) -> None:
    caption_inputs(tmp_path / "a", shard)
    with pytest.raises(InputError):
        compare_runs(str(tmp_path / "a"), str(tmp_path / "none"))


def test_status_prints_it(shard: Path, tmp_path: Path) -> None:
    for name in ("a", "b"):
        caption_inputs(tmp_path / name, shard, mark="Red " if name == "b" else "")
    command = [sys.executable, "ray_jobs/status.py", str(tmp_path / "a")]
    command += ["--compare-with", str(tmp_path / "b")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr
    assert "0 of 10 captions are equal (0.0%); their words are 88.9% alike" in done.stdout
