"""A judge model on the question of Table 2: both orders of each pair, at a real endpoint."""

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s4v_core.analysis.caption_texts import name_sets
from s4v_core.analysis.preference.judge_task import JudgePairs, read_choice
from s4v_core.analysis.preference.judging import JudgeRows, plan_row
from s4v_core.analysis.preference.results import describe_results, show_results
from s4v_core.analysis.preference.study import StudySettings, open_study
from s4v_core.annotation.questions import Item
from s4v_core.annotation.vote_store import Vote
from s4v_core.engines.choice import choose_engine, start_engine
from s4v_core.engines.settings import EngineSettings
from s4v_core.inputs.image_bytes import read_images
from tests.analysis.preference_study import SETS, write_sets
from tests.engines.weather_endpoint import WeatherEndpoint, complete, open_endpoint

IMAGES = 12


@pytest.fixture
def endpoint() -> Iterator[WeatherEndpoint]:
    with open_endpoint() as found:
        yield found


@pytest.fixture
def items(tmp_path: Path) -> list[Item]:
    """The pairs of a study."""
    write_sets(tmp_path, IMAGES)
    a, b = name_sets(tuple(str(tmp_path / one) for one in SETS), None)
    store, _ = open_study(str(tmp_path / "study"), StudySettings(a, b, count=IMAGES))
    store.close()
    return store.items


def judge(items: list[Item], endpoint: WeatherEndpoint) -> dict[str, dict[str, Any]]:
    """The judge's rows, by pair."""
    task = JudgePairs()
    settings = EngineSettings(url=endpoint.url, max_concurrent_requests=4)
    planned = [plan_row(item) for item in items]
    prepared = [
        task.prepare(row, content)
        for row, content in zip(planned, read_images(planned), strict=True)
    ]

    async def answer_all() -> list[dict[str, Any]]:
        engine = start_engine(choose_engine("openai", "org/judge", "model", settings))
        asked = [task.answer(one.about, one.pictures, engine) for one in prepared]
        return await asyncio.gather(*asked)

    return {row["pair_id"]: row for row in asyncio.run(answer_all())}


def read_texts(body: dict[str, Any]) -> tuple[str, str]:
    """The two texts of a request, in its order; it holds one picture."""
    parts = body["messages"][-1]["content"]
    assert sum(part["type"] == "image_url" for part in parts) == 1
    [prompt] = [part["text"] for part in parts if part["type"] == "text"]
    first, second = prompt.split("Text 1:\n")[1].split("\n\nWhich")[0].split("\n\nText 2:\n")
    return first, second


def find_number(body: dict[str, Any]) -> int:
    return int(read_texts(body)[0].split(",")[0].split()[-1])


def test_both_orders_are_asked_and_a_bias_for_a_place_is_seen(
    items: list[Item], endpoint: WeatherEndpoint
) -> None:
    others = {0: "comparable", 1: "1", 2: "I cannot say.", 3: "Both are nice."}

    def reply(body: dict[str, Any], text: str) -> tuple[int, object]:
        first, second = read_texts(body)
        number = find_number(body)
        if number == 4:
            return 400, {"error": {"message": "no such picture", "type": "invalid_request_error"}}
        longer = "1" if len(first) > len(second) else "2"
        said = others.get(number, f"Text {longer} says more.\n\n**Answer: {longer}**")
        return 200, complete(body, said)

    endpoint.reply = reply
    rows = judge(items, endpoint)
    names = {"a": "here", "b": "there", "comparable": "Comparable"}
    # One person always chooses b.
    votes = [Vote("anna", number, "left", "b", 1.0) for number in range(IMAGES)]
    figures = describe_results(names, items, votes, [JudgeRows("org/judge", IMAGES, rows)])
    [found] = figures["judges"]
    assert (found["pairs"], found["answered"]) == (12, 9)
    assert found["reasons"].pop("no_verdict") == 2
    [(refused, count)] = found["reasons"].items()
    assert (refused.startswith("engine_refused"), count) == (True, 1)
    # The longer text is b's: 7 times, whatever its place; 1 comparable, 1 always text 1.
    shares = {answer: one["count"] for answer, one in found["shares"].items()}
    assert shares == {"a": 0, "b": 7, "comparable": 2}
    assert found["same_in_both_orders"] == pytest.approx(8 / 9)
    assert found["text_1_share"] == pytest.approx((7 + 2) / 16)
    assert (found["with_majority"]["images"], found["with_majority"]["observed"]) == (9, 7 / 9)
    assert "judge org/judge: 9 of 12 pairs" in show_results(figures)
    biased = rows["images/001.jpg"]
    assert (biased["a_first"], biased["b_first"], biased["verdict"]) == ("a", "b", "comparable")
    # Each order once; after an unreadable answer once more, and not in the other order.
    asked = [find_number(body) for body in endpoint.requests]
    assert {number: asked.count(number) for number in (0, 1, 2, 7)} == {0: 2, 1: 2, 2: 2, 7: 2}
    for number in (0, 1, 7):
        orders = [read_texts(body) for body in endpoint.requests if find_number(body) == number]
        assert orders[0] == orders[1][::-1]


def test_an_image_that_went_away_is_a_row_and_asks_nothing(
    items: list[Item], endpoint: WeatherEndpoint
) -> None:
    Path(items[0].about["place"]["uri"]).unlink()
    Path(items[1].about["place"]["uri"]).write_bytes(b"no image any more")
    endpoint.reply = lambda body, text: (200, complete(body, "2"))
    rows = judge(items, endpoint)
    assert rows[items[0].item_id]["reason"] == "not_found"
    assert rows[items[1].item_id]["status"] == "error"
    assert sum(row["status"] == "ok" for row in rows.values()) == IMAGES - 2
    assert len(endpoint.requests) == 2 * (IMAGES - 2)


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
