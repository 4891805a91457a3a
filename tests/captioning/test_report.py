"""The report of a run: its counts, its rows, and that it loads and executes nothing foreign."""

import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect

from s4v_core import storage
from s4v_core.captioning.report import write_report
from s4v_core.captioning.report.survey import PICKED, PICKED_WORST, survey_run
from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.records import plan
from s4v_core.records.captions import RESULT_SCHEMA, caption_units
from s4v_core.records.schemas import table_of
from s4v_core.runs.counts import count_run
from s4v_core.runs.engine_figures import summarise_load
from tests.flow.browser import browser, needs_chromium
from tests.runs.finished_run import EVIL, write_run

FIGURES = {"ok_rows_per_s": 5.5, "attempts_per_s": 6.1, "bound_by": "engine"}
VLLM = EngineSpec("vllm", "m", "model", EngineSettings(), "gpu")


def _write_page(
    output: Path,
    head: plan.PlanHead,
    notice: str = "",
    figures: dict[str, Any] = FIGURES,
) -> Path:
    write_report(str(output), head, count_run(caption_units(str(output)), head), figures, notice)
    return output / "report.html"


def test_a_survey_counts_by_source_and_picks_rows_worth_a_look(tmp_path: Path) -> None:
    head = write_run(tmp_path / "out", tmp_path, 1000)
    survey = survey_run(str(tmp_path / "out"), head)
    assert {name: one.rows for name, one in survey.sources.items()} == {
        "coco": 334,
        "sam": 333,
        "lcs": 333,
    }
    assert sum(one.ok for one in survey.sources.values()) == 960
    assert {kind: len(picks) for kind, picks in survey.picks.items()} == {
        "random": PICKED,
        "worst": 0,
        "contradicting": 0,
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
    page = _write_page(
        tmp_path / "out", write_run(tmp_path / "out", tmp_path, 60), EVIL
    ).read_text()
    assert EVIL not in page
    assert "&lt;script&gt;document.title" in page
    assert page.count("<script>") == 1


def test_a_page_shows_what_the_engines_told_and_nothing_if_they_told_nothing(
    tmp_path: Path,
) -> None:
    head = write_run(tmp_path / "out", tmp_path, 60)
    assert "<h2>Engine</h2>" not in _write_page(tmp_path / "out", head).read_text()
    engine = summarise_load(EngineLoad(places=8, steps=9, kv_peak=0.25), VLLM, engines=1)
    engine |= {"limited_by": "KV cache full"}
    page = _write_page(
        tmp_path / "out", head, figures=FIGURES | {"engine_load": engine}
    ).read_text()
    limit = "<tr><td>limited by</td><td class=number>KV cache full</td></tr>"
    assert f"<h2>Engine</h2><table>{limit}<tr><td>sequences a step</td>" in page
    assert "<td>preemptions</td><td class=number>0</td>" in page
    assert "<td>prefix cache hits</td>" not in page


def test_a_report_shows_the_worst_scores_and_what_the_texts_alone_give_away(tmp_path: Path) -> None:
    head = write_run(tmp_path / "out", tmp_path, 300)
    units = caption_units(str(tmp_path / "out"))
    for unit in head.units:
        rows = units.read(unit).to_pylist()
        for row in rows:
            number = int(row["image_id"].partition("/")[2])
            row["quality"] = number / 1000 if row["status"] == "ok" else None
            row["image_sha256"] = f"{number:064d}"
            if number % 100 == 0:
                row["caption"] = f"Scene {number}. A man waits. There are no people in the image."
        table = table_of(rows, RESULT_SCHEMA, "rows")
        units.commit(unit, head.digest, "run", table, heal=True)
    survey = survey_run(str(tmp_path / "out"), head)
    worst = [pick.unit * 256 + pick.row for pick in survey.picks["worst"]]
    ok = [number for number in range(300) if number % 50 not in (7, 9)]
    assert worst == ok[:PICKED_WORST]
    assert survey.contradicting == len(survey.picks["contradicting"]) == 3
    assert sum(one.scored for one in survey.sources.values()) == len(ok)
    page = _write_page(tmp_path / "out", head).read_text()
    assert "worst (100)" in page
    assert "Quality of a caption, by source" in page
    assert "names &#x27;man&#x27;, but says &#x27;there are no people in the image&#x27;" in page
    assert "3 captions name what they deny" in page
    assert "<td class=number>3</td><td>There are no people in the image</td>" in page
    assert "quality 0.003" in page


@needs_chromium
def test_its_filters_work_and_nothing_is_loaded(tmp_path: Path) -> None:
    report = _write_page(tmp_path / "out", write_run(tmp_path / "out", tmp_path, 1000))
    with browser() as visit:
        page = visit.page
        page.goto(report.as_uri())
        shown = page.locator("article").filter(visible=True)
        expect(shown).to_have_count(PICKED)
        page.click("[data-kind=rejected]")
        expect(shown).to_have_count(20)
        page.select_option("select", "sam")
        assert 0 < shown.count() < 20
        page.fill("input", "no such word")
        expect(shown).to_have_count(0)
        assert page.title() == "Captions: none"
        loaded = [url for url in visit.requests if not url.startswith("data:")]
        assert loaded == [report.as_uri()]
        assert visit.errors == []


@pytest.mark.perf
def test_a_report_of_a_hundred_thousand_rows_opens_at_once(tmp_path: Path) -> None:
    head = write_run(tmp_path / "out", tmp_path, 100_000)
    started = time.monotonic()
    report = _write_page(tmp_path / "out", head)
    written_s = time.monotonic() - started
    assert report.stat().st_size < 20e6
    with browser() as visit:
        visit.page.goto(report.as_uri())
        timing = visit.page.evaluate("performance.getEntriesByType('navigation')[0].toJSON()")
    print(  # noqa: T201
        f"written in {written_s:.1f} s, {report.stat().st_size / 1e6:.1f} MB, "
        f"loaded in {timing['loadEventEnd']:.0f} ms"
    )
    assert timing["loadEventEnd"] < 2000
    assert storage.stat(str(report))
