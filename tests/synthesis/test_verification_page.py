"""The page of verify.py as people use it, and with its process killed."""

import json
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import expect

from tests.flow.browser import browser, needs_chromium
from tests.flow.scripts import run, start
from tests.synthesis.verified_benchmark import write_benchmark

LIMIT_S = 60


@contextmanager
def open_page(folder: Path) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start verify.py on a free port; gives its process and address."""
    process = start("verify.py", "out", "--port", "0", cwd=folder)
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("open "):
                yield process, line.split()[1]
                return
        raise AssertionError(process.communicate()[1])
    finally:
        process.kill()
        process.communicate()


@needs_chromium
def test_a_person_verifies_a_benchmark_with_keys_and_ctrl_c_writes_the_marks(
    tmp_path: Path,
) -> None:
    folder = write_benchmark(tmp_path / "out", 3)
    meanings = {"1": "right", "n": "wrong_question", "3": "wrong_image"}
    expected = {}
    with open_page(tmp_path) as (process, address), browser() as visit:
        visit.page.goto(f"{address}?rater=anna")
        for done, (key, mark) in enumerate(meanings.items(), 1):
            expect(visit.page.locator("#choices button").first).to_be_enabled()
            expect(visit.page.locator("#images img")).to_have_js_property("naturalWidth", 320)
            number = visit.page.locator("#item").get_attribute("data-number")
            expect(visit.page.locator("#texts")).to_contain_text(f"It is <b>red</b> {number}.")
            visit.page.keyboard.press(key)
            expect(visit.page.locator("#count")).to_contain_text(f"{done} of 3")
            expected[f"color-{number}"] = mark
        expect(visit.page.locator("#status")).to_have_text("All are done. Thank you.")
        assert visit.errors == []
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=LIMIT_S)
        assert process.returncode == 0, err
    assert "3 votes of 1 raters on 3 of 3 questions" in out
    assert json.loads((folder / "verification.json").read_text())["by_question"] == expected


def test_votes_outlive_a_killed_page(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path / "out", 2)
    with open_page(tmp_path) as (process, address):
        body = {"rater": "anna", "item": 1, "choice": "wrong_image"}
        assert httpx.post(f"{address}votes", json=body).status_code == 200
        process.kill()
        process.wait()
    assert not (folder / "verification.json").exists()
    code, out, err = run("verify.py", "out", "--results", cwd=tmp_path)
    assert (code, "wrong_image 1" in out) == (0, True), err
    marks = json.loads((folder / "verification.json").read_text())["by_question"]
    assert marks == {"color-1": "wrong_image"}


def test_an_output_without_a_benchmark_is_refused_in_a_sentence(tmp_path: Path) -> None:
    code, _, err = run("verify.py", "out", "--results", cwd=tmp_path)
    assert (code, "run the stage benchmark first" in err) == (2, True)
    assert not (tmp_path / "out").exists()
