"""Report, card and forecast of a run leave alone what the run did not write."""

import json
from pathlib import Path
from typing import Any

import pytest

from s4v_core.captioning.checks import _check_output
from s4v_core.captioning.data_card import write_data_card
from s4v_core.captioning.forecast_file import read_forecast, write_forecast
from s4v_core.captioning.report import write_report
from s4v_core.errors import ConfigError
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import PlanHead
from s4v_core.runs.counts import count_run
from tests.runs.finished_run import write_run

FIGURES = {"ok_rows_per_s": 5.5, "attempts_per_s": 6.1, "bound_by": "engine"}
FORECAST = {"images": 4, "total_s": 2.0, "index_s": 1.0}


@pytest.fixture
def head(tmp_path: Path) -> PlanHead:
    return write_run(tmp_path / "out", tmp_path, 20)


def _write(output: Path, head: PlanHead, figures: dict[str, Any] = FIGURES) -> str | None:
    counts = count_run(caption_units(str(output)), head)
    write_data_card(str(output), head, counts, {"*": f"licence {figures['bound_by']}"})
    return write_report(str(output), head, counts, figures)


def test_report_and_card_are_written_again(tmp_path: Path, head: PlanHead) -> None:
    out = tmp_path / "out"
    assert _write(out, head) == str(out / "report.html")
    first = [(out / name).read_bytes() for name in ("README.md", "report.html")]
    _write(out, head, FIGURES | {"bound_by": "read"})
    second = [(out / name).read_bytes() for name in ("README.md", "report.html")]
    assert all(one != two for one, two in zip(first, second, strict=True))
    assert not (out / "DATA_CARD.md").exists()


@pytest.mark.parametrize("mine", [b"mine", b"", b"---\ntask_categories: [image-to-text]\n---\nx"])
def test_a_users_readme_and_report_stay(tmp_path: Path, head: PlanHead, mine: bytes) -> None:
    out = tmp_path / "out"
    for name in ("README.md", "report.html"):
        (out / name).write_bytes(mine)
    for _ in range(2):
        assert _write(out, head) == str(out / "captions-report.html")
        assert (out / "README.md").read_bytes() == (out / "report.html").read_bytes() == mine
        assert "# Captions" in (out / "DATA_CARD.md").read_text()


def test_an_edited_card_stays(tmp_path: Path, head: PlanHead) -> None:
    out = tmp_path / "out"
    _write(out, head)
    edited = (out / "README.md").read_text() + "\nMy own words.\n"
    (out / "README.md").write_text(edited)
    _write(out, head, FIGURES | {"bound_by": "read"})
    assert (out / "README.md").read_text() == edited
    assert "licence read" in (out / "DATA_CARD.md").read_text()


def test_links_to_files_of_users_stay(tmp_path: Path, head: PlanHead) -> None:
    out = tmp_path / "out"
    (tmp_path / "mine.md").write_text("mine")
    (out / "README.md").symlink_to(tmp_path / "mine.md")
    (out / "report.html").symlink_to(tmp_path / "nowhere")
    _write(out, head)
    assert (tmp_path / "mine.md").read_text() == "mine"
    assert not (tmp_path / "nowhere").exists()
    assert (out / "README.md").is_symlink()
    assert (out / "report.html").is_symlink()


def test_if_every_name_is_taken_nothing_is_written(tmp_path: Path, head: PlanHead) -> None:
    out = tmp_path / "out"
    names = ("README.md", "DATA_CARD.md", "report.html", "captions-report.html")
    for name in names:
        (out / name).write_text("mine")
    assert _write(out, head) is None
    assert {(out / name).read_text() for name in names} == {"mine"}


def test_a_report_of_an_earlier_version_is_replaced(tmp_path: Path, head: PlanHead) -> None:
    out = tmp_path / "out"
    _write(out, head)
    for receipt in (out / ".receipts").iterdir():
        receipt.unlink()
    assert _write(out, head, FIGURES | {"bound_by": "read"}) == str(out / "report.html")


def test_a_forecast_replaces_only_a_forecast(tmp_path: Path) -> None:
    out = str(tmp_path)
    (tmp_path / "forecast.json").write_text(json.dumps(FORECAST))  # of an earlier version
    write_forecast(out, FORECAST | {"images": 5})
    write_forecast(out, FORECAST | {"images": 6})
    assert read_forecast(out) == FORECAST | {"images": 6}
    (tmp_path / "forecast.json").write_text('{"rain": true}')
    with pytest.raises(ConfigError, match=r"forecast\.json exists and was not written by this run"):
        write_forecast(out, FORECAST)
    assert read_forecast(out) is None
    assert (tmp_path / "forecast.json").read_text() == '{"rain": true}'


@pytest.mark.parametrize("name", ["run.json", "stats.json"])
def test_a_new_run_is_refused_where_files_of_its_names_lie(tmp_path: Path, name: str) -> None:
    assert _check_output(str(tmp_path), {}) is None
    (tmp_path / name).write_text("mine")
    with pytest.raises(ConfigError, match=f"holds no run but a {name}"):
        _check_output(str(tmp_path), {})
