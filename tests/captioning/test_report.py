"""The report of a run: what it counts, what it shows, and that it runs and loads nothing else."""

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from s4v_core import storage
from s4v_core.captioning.report import write_report
from s4v_core.captioning.report.survey import PICKED, survey_run
from s4v_core.captioning.statistics import count_run
from s4v_core.records import plan, units
from s4v_core.records.indexing import INDEX_SCHEMA, index_shard
from s4v_core.records.schemas import RESULT_SCHEMA, table_of
from s4v_core.records.sources import find_shards
from tests.conftest import photo, write_tar
from tests.flow.browser import CHROMIUM, browser

FIGURES = {"goodput_per_s": 5.5, "attempts_per_s": 6.1, "bound_by": "engine"}
EVIL = "<script>document.title='evil'</script><img src=x onerror=alert(1)> & \"quotes\""


def _run(output: Path, folder: Path, images: int) -> plan.PlanHead:
    """A finished run, written without engines: every third caption long, some rejected."""
    members = {f"{n:04d}.jpg": photo(n, (64, 48)) for n in range(min(images, 40))}
    write_tar(folder / "shards" / "0.tar", members)
    [shard] = find_shards([str(folder / "shards" / "0.tar")])
    one = index_shard(shard).rows
    rows = [one[n % len(one)] | {"image_id": f"0/{n:06d}"} for n in range(images)]
    table = table_of(rows, INDEX_SCHEMA, "rows")
    head, planned = plan.build_plan([table], [], {"model": "none"}, "listing")
    head = plan.write_plan(str(output), head, planned)
    started = datetime(2026, 11, 21, tzinfo=UTC)
    for unit, count in enumerate(head.unit_rows):
        first = unit * 256
        made = [
            _row(n, started + timedelta(seconds=30 * unit)) for n in range(first, first + count)
        ]
        rows_table = table_of(made, RESULT_SCHEMA, "made")
        units.commit_unit(str(output), unit, head.digest, "run", rows_table)
    return head


def _row(number: int, at: datetime) -> dict:
    status = "rejected" if number % 50 == 7 else "error" if number % 50 == 9 else "ok"
    words = 200 if number % 3 == 0 else 20 + number % 50
    return dict.fromkeys(RESULT_SCHEMA.names) | {
        "image_id": f"0/{number:06d}",
        "uri": "0.tar",
        "source": ("coco", "sam", "lcs")[number % 3],
        "caption": None if status == "error" else f"{number} {EVIL} word" + " word" * (words - 10),
        "status": status,
        "reason": {"rejected": "looping", "error": "not_an_image"}.get(status),
        "attempts": 4 if status == "rejected" else 1,
        "output_tokens": words,
        "image_sha256": "0" * 64,
        "prompt": "What is it?",
        "model": "none",
        "model_revision": "1",
        "engine": "fake",
        "sampling": "{}",
        "run_id": "run",
        "created_at": at,
    }


def _written(output: Path, head: plan.PlanHead, notice: str = "") -> Path:
    write_report(str(output), head, count_run(str(output), head), FIGURES, notice)
    return output / "report.html"


def test_a_survey_counts_by_source_and_picks_rows_worth_a_look(tmp_path: Path) -> None:
    head = _run(tmp_path / "out", tmp_path, 1000)
    survey = survey_run(str(tmp_path / "out"), head)
    assert {name: one.rows for name, one in survey.sources.items()} == {
        "coco": 334,
        "sam": 333,
        "lcs": 333,
    }
    assert sum(one.ok for one in survey.sources.values()) == 960
    assert {kind: len(picks) for kind, picks in survey.picks.items()} == {
        "random": PICKED,
        "longest": PICKED,
        "shortest": PICKED,
        "rejected": 20,
        "error": 20,
    }
    again = survey_run(str(tmp_path / "out"), head)
    assert again.picks == survey.picks
    longest = [pick.unit * 256 + pick.row for pick in survey.picks["longest"]]
    assert all(number % 3 == 0 for number in longest)


def test_a_caption_stays_text(tmp_path: Path) -> None:
    page = _written(tmp_path / "out", _run(tmp_path / "out", tmp_path, 60), EVIL).read_text()
    assert EVIL not in page
    assert "&lt;script&gt;document.title" in page
    assert page.count("<script>") == 1


@pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")
def test_its_filters_work_and_nothing_is_loaded(tmp_path: Path) -> None:
    report = _written(tmp_path / "out", _run(tmp_path / "out", tmp_path, 1000))
    shown = "[...document.querySelectorAll('article')].filter(a => !a.hidden).length"
    with browser() as page:
        page.open(report.as_uri())
        assert page.run(shown) == PICKED
        page.run("document.querySelector('[data-kind=rejected]').click()")
        assert page.run(shown) == 20
        page.run(
            "const s = document.querySelector('select'); s.value = 'sam';"
            "s.dispatchEvent(new Event('change'))"
        )
        assert 0 < page.run(shown) < 20
        page.run(
            "const i = document.querySelector('input'); i.value = 'no such word';"
            "i.dispatchEvent(new Event('input'))"
        )
        assert page.run(shown) == 0
        assert page.run("document.title") == "Captions: none"
        loaded = [url for url in page.requests if not url.startswith("data:")]
        assert loaded == [report.as_uri()]
        assert page.errors == []


@pytest.mark.perf
def test_a_report_of_a_hundred_thousand_rows_opens_at_once(tmp_path: Path) -> None:
    head = _run(tmp_path / "out", tmp_path, 100_000)
    started = time.monotonic()
    report = _written(tmp_path / "out", head)
    written_s = time.monotonic() - started
    assert report.stat().st_size < 20e6
    with browser() as page:
        page.open(report.as_uri())
        timing = json.loads(
            page.run("JSON.stringify(performance.getEntriesByType('navigation')[0])")
        )
    print(  # noqa: T201
        f"written in {written_s:.1f} s, {report.stat().st_size / 1e6:.1f} MB, "
        f"loaded in {timing['loadEventEnd']:.0f} ms"
    )
    assert timing["loadEventEnd"] < 2000
    assert storage.stat(str(report))
