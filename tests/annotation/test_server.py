import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from starlette.testclient import TestClient

from s4v_core.annotation.vote_store import VoteStore
from tests.annotation.verifying import open_study

GOOD = {"rater": "anna", "item": 0, "choice": "yes", "seconds": 2.5}


@pytest.fixture
def study(tmp_path: Path) -> Iterator[tuple[TestClient, VoteStore]]:
    with open_study(tmp_path) as found:
        yield found


def test_a_rater_goes_through_all_items_and_back(study: tuple[TestClient, VoteStore]) -> None:
    client, store = study
    seen = []
    turn = client.get("/turn", params={"rater": "Anna"}).json()
    while turn["item"] is not None:
        seen.append(turn["item"])
        body = GOOD | {"item": turn["item"]}
        turn = client.post("/votes", json=body).json()
    assert sorted(seen) == [0, 1, 2, 3, 4]
    assert turn["done"] == turn["total"] == turn["at"] == 5
    assert [vote.item for vote in store.read_votes()] == seen
    back = client.get("/turn", params={"rater": "anna", "at": 4}).json()
    assert (back["item"], back["chosen"]) == (seen[4], "yes")
    client.post("/votes", json=GOOD | {"item": seen[4], "choice": "no"})
    assert client.get("/turn", params={"rater": "anna", "at": 4}).json()["chosen"] == "no"
    assert len(store.read_votes()) == 5


def test_raters_have_orders_of_their_own_and_one_name_in_any_spelling(
    study: tuple[TestClient, VoteStore],
) -> None:
    client, store = study

    def list_order(rater: str) -> list[int]:
        places = [client.get("/turn", params={"rater": rater, "at": at}) for at in range(5)]
        return [place.json()["item"] for place in places]

    orders = [list_order(f"r{n}") for n in range(6)]
    assert len({tuple(order) for order in orders}) > 1
    assert list_order("r0") == orders[0]
    for spelling in ("Zoë  M.", " zoe\u0308 m. ", "ZOË M."):
        assert client.post("/votes", json=GOOD | {"rater": spelling}).is_success
    assert {vote.rater for vote in store.read_votes()} == {"zoë m."}


@pytest.mark.parametrize(
    "change",
    [
        {"choice": "maybe"},
        {"choice": None},
        {"item": 5},
        {"item": -1},
        {"item": 10**30},
        {"item": "0; DROP TABLE votes"},
        {"rater": ""},
        {"rater": " \t"},
        {"rater": "x" * 65},
        {"rater": "a\x00b"},
        {"rater": "\u202egnp"},
        {"rater": ["anna"]},
        {"seconds": "NaN"},
        {"extra": 1},
    ],
)
def test_a_bad_vote_is_refused_in_a_sentence(
    study: tuple[TestClient, VoteStore], change: dict[str, Any]
) -> None:
    client, store = study
    answer = client.post("/votes", json=GOOD | change)
    assert answer.status_code == 400
    assert answer.json()["error"]
    assert store.read_votes() == []


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"[]", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b'{"seconds": NaN}', "application/json"),
        (b" " * 20_000, "application/json"),
        (b"rater=anna&item=0&choice=yes", "application/x-www-form-urlencoded"),
        (b'{"rater": "anna", "item": 0, "choice": "yes"}', "text/plain"),
    ],
)
def test_a_body_that_is_no_short_json_is_refused(
    study: tuple[TestClient, VoteStore], content: bytes, kind: str
) -> None:
    client, store = study
    answer = client.post("/votes", content=content, headers={"Content-Type": kind})
    assert answer.status_code == 400
    assert store.read_votes() == []


def test_images_are_jpegs_of_our_own_and_have_only_numbers(
    study: tuple[TestClient, VoteStore],
) -> None:
    client, _ = study
    for number in (0, 1):
        answer = client.get(f"/images/3/{number}")
        assert answer.headers["content-type"] == "image/jpeg"
        assert Image.open(io.BytesIO(answer.content)).size == (320, 240)
    assert client.get("/images/3/2").status_code == 404
    assert client.get("/images/5/0").status_code == 400
    for path in ("/images/../votes.sqlite", "/images/-1/0", "/images/0/x", "/votes.sqlite", "/x"):
        assert client.get(path).status_code == 404


def test_the_page_holds_no_item_and_runs_its_own_script_alone(
    study: tuple[TestClient, VoteStore],
) -> None:
    client, _ = study
    page = client.get("/")
    assert "&lt;b&gt;right" in page.text
    assert "<b>right" not in page.text
    assert "window.hit" not in page.text
    assert "default-src 'none'; img-src data: 'self'; connect-src 'self'" in page.text
    assert "script-src 'sha256-" in page.text
    assert page.text.count("<script") == 1
    for forbidden in ("innerHTML", "eval(", "http://", "https://"):
        assert forbidden not in page.text


def test_a_page_of_this_machine_is_reached_by_no_other_name(
    study: tuple[TestClient, VoteStore],
) -> None:
    client, _ = study
    assert client.get("/turn?rater=a", headers={"Host": "evil.example"}).status_code == 400
    assert client.get("/turn?rater=a", headers={"Host": "localhost:8765"}).is_success


def test_a_shared_study_needs_its_key_everywhere(tmp_path: Path) -> None:
    with open_study(tmp_path, key="secret") as (client, store):
        for path in ("/", "/question", "/turn?rater=a", "/images/0/0"):
            joint = "&" if "?" in path else "?"
            assert client.get(path, headers={"Host": "studies.example"}).status_code == 403
            assert client.get(f"{path}{joint}key=wrong").status_code == 403
            assert client.get(f"{path}{joint}key=%C3%A9").status_code == 403
            found = client.get(f"{path}{joint}key=secret", headers={"Host": "studies.example"})
            assert found.is_success
        assert client.post("/votes", json=GOOD).status_code == 403
        assert store.read_votes() == []
        assert client.post("/votes?key=secret", json=GOOD).is_success


def test_a_vote_that_the_disk_refuses_is_not_counted(study: tuple[TestClient, VoteStore]) -> None:
    client, store = study
    store._connection.execute("PRAGMA query_only = 1")
    answer = client.post("/votes", json=GOOD)
    assert answer.status_code == 503
    assert "not saved" in answer.json()["error"]
    assert client.get("/turn", params={"rater": "anna"}).json()["done"] == 0
