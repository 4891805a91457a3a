import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest

from ray_jobs.analyze import main
from s4v_core.analysis.report import build_report, describe_sets, show_sets
from s4v_core.analysis.rings import draw_rings
from s4v_core.analysis.set_statistics import SetStatistics
from s4v_core.errors import ConfigError
from tests.datasets.published import read_captions, write_array

TEXTS = ["The dog sits on a chair. The cat sleeps.", "A man rides a bicycle.", "The dog sits."]


def count(texts: list[str]) -> SetStatistics:
    total = SetStatistics()
    total.add(SetStatistics.count(texts))
    return total


def test_the_page_loads_and_runs_nothing_and_escapes_captions() -> None:
    page = build_report({"<b>one</b>": count(TEXTS), "two": count(["<script>alert(1)</script> x"])})
    assert "<b>one" not in page
    assert "<script" not in page
    assert not re.search(r"(src|href)=", page)
    assert "default-src 'none'" in page
    for svg in re.findall(r"<svg.*?</svg>", page, re.DOTALL):
        ElementTree.fromstring(svg)


def test_the_page_and_the_table_hold_every_set_and_class() -> None:
    sets = {"one": count(TEXTS), "two": count(TEXTS[:1])}
    page, table = build_report(sets), show_sets(sets)
    for name in ("nouns", "numerals", "prepositions", "captions that loop"):
        assert name in page
        assert name in table
    assert json.loads(json.dumps(describe_sets(sets)))["sets"]["two"]["captions"] == 1


def test_rings_have_a_piece_for_each_verb_and_noun() -> None:
    svg = draw_rings("pairs", {("sit", "dog"): 6, ("sit", "cat"): 2, ("ride", "man"): 2})
    root = ElementTree.fromstring(re.search(r"<svg.*</svg>", svg)[0])  # type: ignore[index]
    titles = [title.text for title in root.iter("title")]
    assert titles == ["sit: 8", "dog: 6", "cat: 2", "ride: 2", "man: 2"]
    assert [text.text for text in root.iter("text")] == ["sit", "dog", "cat", "ride", "man"]


def test_rings_of_one_pair_of_none_and_of_many_are_drawn() -> None:
    assert draw_rings("none", {}) == ""
    assert not re.search(r"\bnan\b", draw_rings("one", {("be", "sky"): 1}))
    many = draw_rings("many", {(f"v{v}", f"n{n}"): v + n for v in range(1, 40) for n in range(40)})
    assert many.count("<path") == 16 * 6


def test_an_empty_set_has_a_report_too() -> None:
    assert "0.0 %" in build_report({"none": SetStatistics()})
    assert "none" in show_sets({"none": SetStatistics()})


def test_the_script_writes_both_reports_and_nothing_over_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write_array(tmp_path / "captions.json", read_captions(20))
    to = tmp_path / "out"
    assert main([str(data), "--to", str(to), "--workers", "1", "--limit", "15"]) == 0
    assert "15" in capsys.readouterr().out
    assert json.loads((to / "analysis.json").read_text())["sets"]["captions"]["captions"] == 15
    assert (to / "analysis.html").read_text().startswith("<!doctype html>")
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        main([str(data), "--to", str(to)])
