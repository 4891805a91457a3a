"""The report of an analysis in a browser, as wide as a phone."""

from pathlib import Path

from s4v_core.analysis.report import build_report
from s4v_core.analysis.set_statistics import SetStatistics
from tests.flow.browser import browser, needs_chromium


@needs_chromium
def test_the_report_of_many_sets_is_readable_on_a_phone(tmp_path: Path) -> None:
    total = SetStatistics()
    total.add(SetStatistics.count(["The dog sits on a chair. The cat sleeps.", "A man rides."]))
    sets = {f"captions_of_a_model_{number}": total for number in range(6)}
    page = tmp_path / "analysis.html"
    page.write_text(build_report(sets))
    with browser(viewport={"width": 390, "height": 800}) as visit:
        visit.page.goto(page.as_uri())
        assert visit.page.evaluate("document.documentElement.scrollWidth") == 390
        labels = visit.page.locator(".wide td:first-child")
        heights = labels.evaluate_all("all => all.map(one => one.clientHeight)")
        assert max(heights) < 90  # a label breaks between words and not between letters
        marks = visit.page.locator(".legend span")
        counts = "all => all.map(one => one.getClientRects().length)"
        assert set(marks.evaluate_all(counts)) == {1}  # a mark stands beside its name
        assert visit.errors == []
