"""The page of a study as people use it: several at once, and with the server killed."""

import http.client
import json
import signal
import time
from bisect import bisect
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
from playwright.sync_api import Page, expect

from s4v_core.annotation.vote_store import Vote, VoteStore
from tests.analysis.preference_study import SETS, open_page, write_sets
from tests.flow.browser import Visit, browser, needs_chromium
from tests.flow.scripts import run

RATERS = 10
RATE = 50
"""Votes per second under which the server is killed."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sets(tmp_path, 8)


def read_votes(folder: Path) -> list[Vote]:
    store = VoteStore(folder / "study" / "votes.sqlite")
    try:
        return store.read_votes()
    finally:
        store.close()


@dataclass
class Voters:
    """Clients that vote as fast as they can until their server is gone.

    Attributes:
        answered: Rater, item and choice of each vote that the server answered, and when.
    """

    address: str
    answered: list[tuple[str, int, str]] = field(default_factory=list)
    times: list[float] = field(default_factory=list)

    def vote(self, rater: str, items: int) -> None:
        place = urlsplit(self.address)
        connection = http.client.HTTPConnection(place.hostname or "", place.port)
        for number in range(items):
            choice = ("left", "right", "comparable")[number % 3]
            body = json.dumps({"rater": rater, "item": number, "choice": choice})
            try:
                connection.request("POST", "/votes", body, {"Content-Type": "application/json"})
                answer = connection.getresponse()
                answer.read()
            except (OSError, http.client.HTTPException):
                return
            assert answer.status == 200
            self.answered.append((rater, number, choice))
            self.times.append(time.monotonic())

    def find_rate(self) -> float:
        """The most votes of one second."""
        times = sorted(self.times)
        return max(bisect(times, start + 1) - at for at, start in enumerate(times))


def test_no_vote_that_was_answered_is_lost_when_the_server_is_killed(tmp_path: Path) -> None:
    items, least = 60, 4 * RATE
    write_sets(tmp_path, items)
    answered: set[tuple[str, int, str]] = set()
    for start in range(2):
        with open_page(tmp_path, "--n", str(items)) as study, ThreadPoolExecutor(RATERS) as pool:
            voters = Voters(study.address)
            sent = [pool.submit(voters.vote, f"s{start} r{n}", items) for n in range(RATERS)]
            while len(voters.answered) < least and not all(one.done() for one in sent):
                time.sleep(0.01)
            study.process.kill()
        for one in sent:
            one.result()
        assert least <= len(voters.answered) < RATERS * items  # it was killed in the middle
        assert voters.find_rate() >= RATE
        answered |= set(voters.answered)
        found = {(vote.rater, vote.item, vote.choice) for vote in read_votes(tmp_path)}
        assert answered <= found
        # Each rater may have one more that was stored and not answered any more.
        assert len(found - answered) <= RATERS * (start + 1)
    with open_page(tmp_path, "--n", str(items)) as study:
        done = httpx.get(f"{study.address}turn", params={"rater": "s0 r0"}).json()["done"]
        assert done >= sum(rater == "s0 r0" for rater, _, _ in answered)
        study.process.send_signal(signal.SIGINT)
        out, err = study.process.communicate(timeout=60)
    assert study.process.returncode == 0, err
    assert "Percentage" in out


def answer_one(page: Page, key: str, done: int) -> int:
    """Press a key and wait for the next image; return the number of the one that was shown."""
    expect(page.locator("#choices button").first).to_be_enabled()
    number = int(page.locator("#item").get_attribute("data-number") or -1)
    page.keyboard.press(key)
    expect(page.locator("#count")).to_contain_text(f"{done} of 8")
    return number


@contextmanager
def open_second_window(visit: Visit) -> Iterator[Page]:
    """A page of another person, who shares nothing with the first one."""
    assert visit.page.context.browser
    context = visit.page.context.browser.new_context()
    yield context.new_page()
    context.close()


@needs_chromium
def test_two_people_compare_at_the_same_time_with_keys_alone(folder: Path) -> None:
    meanings = {"ArrowLeft": "left", "2": "right", " ": "comparable"}
    with (
        open_page(folder, "--n", "8") as study,
        browser() as anna,
        open_second_window(anna) as second,
    ):
        pages = {"anna": anna.page, "<b>bela</b>": second}
        anna.page.goto(study.address)
        anna.page.fill("#name", "Anna")
        anna.page.keyboard.press("Enter")
        second.goto(f"{study.address}?rater=%3Cb%3Ebela%3C/b%3E")
        expected = {}
        for turn in range(8):
            for shift, (rater, page) in enumerate(pages.items()):
                key = list(meanings)[(turn + shift) % 3]
                expected[rater, answer_one(page, key, turn + 1)] = meanings[key]
        for page in pages.values():
            expect(page.locator("#status")).to_have_text("All are done. Thank you.")
        # The last answer is changed.
        anna.page.keyboard.press("Backspace")
        expect(anna.page.locator("button[aria-pressed=true]")).to_have_attribute(
            "value", meanings[list(meanings)[7 % 3]]
        )
        number = answer_one(anna.page, "0", 8)
        expected["anna", number] = "comparable"
        expect(anna.page.locator("#item")).to_be_hidden()
        assert anna.errors == []
        found = {(vote.rater, vote.item): vote.choice for vote in read_votes(folder)}
        assert found == expected
        assert all(url.startswith(study.address) for url in anna.requests)


@needs_chromium
def test_the_page_shows_captions_as_text_and_survives_a_server_that_went_away(
    tmp_path: Path,
) -> None:
    write_sets(tmp_path, 2)
    evil = '<img src=x onerror="window.hit=1"><script>window.hit=1</script>\\u2028{{7*7}}'
    lines = (tmp_path / "both.jsonl").read_text().replace("here says", json.dumps(evil)[1:-1])
    (tmp_path / "both.jsonl").write_text(lines)
    with (
        open_page(tmp_path, "--n", "2") as study,
        browser(viewport={"width": 390, "height": 800}) as v,
    ):
        v.page.goto(f"{study.address}?rater=anna")
        expect(v.page.locator("#texts")).to_contain_text("<script>window.hit=1</script>")
        expect(v.page.locator("#images img")).to_have_js_property("complete", True)
        assert v.page.locator("#images img").evaluate("image => image.naturalWidth") == 320
        assert v.page.evaluate("window.hit") is None
        assert v.page.locator("#texts script, #texts img").count() == 0
        width = v.page.evaluate("document.documentElement.scrollWidth")
        assert width <= 390
        study.process.kill()
        study.process.wait()
        v.page.keyboard.press("1")
        expect(v.page.locator("#status")).to_contain_text("the server does not answer")
        expect(v.page.locator("#choices button").first).to_be_enabled()
        port = str(urlsplit(study.address).port)
        with open_page(tmp_path, "--n", "2", "--port", port):
            v.page.keyboard.press("1")
            expect(v.page.locator("#count")).to_contain_text("1 of 2")


def test_no_path_leaves_the_study_and_a_second_server_is_refused(folder: Path) -> None:
    with open_page(folder, "--n", "8") as study:
        place = urlsplit(study.address)
        for path in (
            "/../both.jsonl",
            "/images/../../both.jsonl",
            "/images/..%2f..%2fboth.jsonl/0",
            "/images/0/..%2f..%2f..%2fboth.jsonl",
            "//etc/passwd",
            "/%2e%2e/study/votes.sqlite",
            "/images/0%00/0",
        ):
            connection = http.client.HTTPConnection(place.hostname or "", place.port)
            connection.request("GET", path)  # as it is written: browsers would tidy it up
            answer = connection.getresponse()
            assert answer.status == 404, path
            assert b"says" not in answer.read()
        flags = (*SETS, "--output", "study", "--n", "8", "--port", "0")
        code, _, err = run("prefer.py", *flags, cwd=folder)
        assert (code, "in use by another process" in err) == (2, True)
        code, out, _ = run("prefer.py", *flags, "--results", cwd=folder)
        assert (code, "Percentage" in out) == (0, True)
