"""The state of a run, read from its folder alone: progress, speed and verification."""

import os
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core.captioning.row_checks import check_captions
from s4v_core.records.captions import CAPTIONS, caption_units
from s4v_core.runs.status import read_status
from s4v_core.runs.verification import verify_run
from tests.runs.finished_run import write_run


@pytest.fixture
def output(tmp_path: Path) -> Path:
    write_run(tmp_path / "out", tmp_path, 1000)
    return tmp_path / "out"


def _unit_file(output: Path, number: int) -> Path:
    return output / "captions" / f"unit-{number:06d}.parquet"


def _rewrite(path: Path, table: pa.Table) -> None:
    pq.write_table(table.replace_schema_metadata(pq.read_schema(path).metadata), path)


def test_a_finished_run_is_counted_and_verified(output: Path) -> None:
    status = read_status(caption_units(str(output)))
    assert (status.counts.ok, status.counts.rejected, status.counts.error) == (960, 20, 20)
    assert status.counts.reasons == {"looping": 20, "not_an_image": 20}
    assert status.pace is None
    found = verify_run(caption_units(str(output)), check_captions)
    assert found.is_sound
    assert found.as_text() == "verified: 1000 rows, each planned image exactly once"


def test_a_running_run_shows_its_pace_and_a_stopped_one_says_that_it_stopped(output: Path) -> None:
    _unit_file(output, 3).unlink()
    now = time.time()
    for number in range(3):
        os.utime(_unit_file(output, number), (now, now - 10 + 5 * number))
    pace = read_status(caption_units(str(output))).pace
    assert pace is not None
    assert pace.rows_per_s == pytest.approx(51.2, rel=0.01)  # two units in ten seconds
    assert pace.left == 232
    assert "51.2 images/s lately, 5 s to go" in pace.as_text(CAPTIONS.words)
    for number in range(3):
        os.utime(_unit_file(output, number), (now, now - 7200))
    assert "no unit came for 2.0 h" in read_status(caption_units(str(output))).as_text()


def test_verification_names_what_is_wrong(output: Path) -> None:
    table = pq.read_table(_unit_file(output, 0))
    _rewrite(_unit_file(output, 0), pa.concat_tables([table.slice(1), table.slice(1, 1)]))
    captions = pa.nulls(256, pa.string())
    place = table.schema.get_field_index("caption")
    table = pq.read_table(_unit_file(output, 1))
    _rewrite(_unit_file(output, 1), table.set_column(place, table.schema.field(place), captions))
    _unit_file(output, 2).write_bytes(_unit_file(output, 2).read_bytes()[:-100])
    _unit_file(output, 3).rename(_unit_file(output, 9))
    found = verify_run(caption_units(str(output)), check_captions)
    assert not found.is_sound
    text = found.as_text()
    assert "unit 0: 1 planned images missing" in text
    assert "0/000001: 2 rows" in text
    assert "ok rows without a caption" in text
    assert "unit 2: " in text
    assert "is no complete Parquet file" in text
    assert "unit 3: no file" in text
    assert "unit 9: not in the plan" in text
