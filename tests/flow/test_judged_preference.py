"""A judge model on the question of Table 2: both orders, through the durable flow."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ray_jobs.prefer import main
from s4v_core.analysis.preference.judge_task import read_choice
from s4v_core.analysis.preference.judging import read_judges
from tests.analysis.preference_study import SETS, write_sets
from tests.engines.weather_endpoint import WeatherEndpoint, complete, open_endpoint

IMAGES = 12


@pytest.fixture
def endpoint() -> Iterator[WeatherEndpoint]:
    with open_endpoint() as found:
        yield found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_sets(tmp_path, IMAGES)


def read_texts(body: dict[str, Any]) -> tuple[str, str]:
    """The two texts of a request, in its order; it holds one picture."""
    parts = body["messages"][-1]["content"]
    assert sum(part["type"] == "image_url" for part in parts) == 1
    [prompt] = [part["text"] for part in parts if part["type"] == "text"]
    first, second = prompt.split("Text 1:\n")[1].split("\n\nWhich")[0].split("\n\nText 2:\n")
    return first, second


def find_number(body: dict[str, Any]) -> int:
    return int(read_texts(body)[0].split(",")[0].split()[-1])


def ask(folder: Path, endpoint: WeatherEndpoint, model: str = "org/judge") -> tuple[int, dict]:
    sets = [str(folder / one) for one in SETS]
    flags = ["--output", str(folder / "study"), "--n", str(IMAGES)]
    code = main([*sets, *flags, "--judge", endpoint.url, "--judge-model", model])
    figures = json.loads((folder / "study" / "results.json").read_text())
    return code, figures


@pytest.mark.usefixtures("local_ray")
def test_a_judge_is_asked_in_both_orders_and_its_bias_is_seen(
    folder: Path, endpoint: WeatherEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    others = {0: "comparable", 1: "1", 2: "I cannot say.", 3: "Both are nice."}

    def judge(body: dict[str, Any], text: str) -> tuple[int, object]:
        first, second = read_texts(body)
        number = find_number(body)
        if number == 4:
            return 400, {"error": {"message": "no such picture", "type": "invalid_request_error"}}
        longer = "1" if len(first) > len(second) else "2"
        said = others.get(number, f"Text {longer} says more.\n\n**Answer: {longer}**")
        return 200, complete(body, said)

    endpoint.reply = judge
    code, figures = ask(folder, endpoint)
    assert code == 0
    [found] = figures["judges"]
    assert (found["model"], found["pairs"], found["answered"]) == ("org/judge", 12, 9)
    assert found["reasons"].pop("no_verdict") == 2
    [(refused, count)] = found["reasons"].items()
    assert (refused.startswith("engine_refused"), count) == (True, 1)
    # The longer text is b's: 7 times, whatever its place; 1 comparable, 1 always text 1.
    shares = {answer: one["count"] for answer, one in found["shares"].items()}
    assert shares == {"a": 0, "b": 7, "comparable": 2}
    assert found["same_in_both_orders"] == pytest.approx(8 / 9)
    assert found["text_1_share"] == pytest.approx((7 + 2) / 16)
    [rows] = read_judges(str(folder / "study"))
    biased = rows.rows["images/001.jpg"]
    assert (biased["a_first"], biased["b_first"], biased["verdict"]) == ("a", "b", "comparable")
    # Each order once, and each unreadable answer once more.
    asked = [find_number(body) for body in endpoint.requests]
    assert {number: asked.count(number) for number in (0, 1, 2, 7)} == {0: 2, 1: 2, 2: 2, 7: 2}
    for body in endpoint.requests:
        assert len({text.split()[0] for text in read_texts(body)}) == 2


@pytest.mark.usefixtures("local_ray")
def test_a_judge_resumes_without_asking_again_and_judges_stand_side_by_side(
    folder: Path, endpoint: WeatherEndpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    endpoint.reply = lambda body, text: (200, complete(body, "1"))
    assert ask(folder, endpoint)[0] == 0
    count = len(endpoint.requests)
    assert count == 2 * IMAGES
    assert ask(folder, endpoint)[0] == 0
    assert len(endpoint.requests) == count
    code, figures = ask(folder, endpoint, "org-judge")  # nearly the same name
    assert code == 0
    assert [one["model"] for one in figures["judges"]] == ["org-judge", "org/judge"]
    for one in figures["judges"]:
        assert one["text_1_share"] == 1
        assert one["same_in_both_orders"] == 0
        assert one["shares"]["comparable"]["count"] == IMAGES


@pytest.mark.parametrize(
    ("text", "choice"),
    [
        ("1", "1"),
        (" 2.\n", "2"),
        ("Comparable", "comparable"),
        ("Text 1 is fuller.\n\n**Answer: 2**", "2"),
        ("The better one is text 2", "2"),
        ("Text 1 is better.", "1"),
        ("**Answer:** \\boxed{2}", None),
        ('{"better": "comparable"}', "comparable"),
        ("They are comparable", "comparable"),
        ("Text 1 is better than text 2", None),
        ("Text 1 is not better", None),
        ("-1", None),
        ("1/2", None),
        ("12", None),
        ("I prefer neither", None),
        ("They are incomparable", None),
        ("1 or 2?\nHard to say", None),
        ("It scores 0.1", None),
        ("", None),
    ],
)
def test_a_verdict_is_the_last_word_of_an_answer(text: str, choice: str | None) -> None:
    assert read_choice(text) == choice
