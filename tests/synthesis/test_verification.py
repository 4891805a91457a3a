"""People's votes on the questions of a benchmark, and the marks that follow from them."""

import io
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image
from starlette.testclient import TestClient

from s4v_core.annotation.ballot import Ballot
from s4v_core.annotation.questions import Item
from s4v_core.annotation.server import StudyPages
from s4v_core.annotation.vote_store import Vote
from s4v_core.errors import ConfigError, InputError
from s4v_core.synthesis.verification import (
    MARKS,
    RIGHT,
    UNDECIDED,
    WRONG_IMAGE,
    WRONG_QUESTION,
    Verification,
    find_marks,
    open_votes,
    read_items,
    read_marks,
    write_marks,
)
from tests.synthesis.verified_benchmark import write_benchmark


@contextmanager
def open_client(folder: Path) -> Iterator[TestClient]:
    store = open_votes(str(folder), str(folder / "votes"))
    store.add_items(read_items(str(folder)))
    pages = StudyPages(Ballot(Verification(str(folder)), store), None)
    try:
        yield TestClient(pages.build_app(), "http://127.0.0.1:1")
        write_marks(str(folder), store)
    finally:
        pages.close()
        store.close()


def vote(client: TestClient, rater: str, number: int, choice: str) -> None:
    body = {"rater": rater, "item": number, "choice": choice, "seconds": 1.0}
    assert client.post("/votes", json=body).is_success


@pytest.mark.parametrize(
    ("answers", "mark"),
    [
        ([RIGHT], RIGHT),
        ([WRONG_QUESTION], WRONG_QUESTION),
        ([WRONG_IMAGE], WRONG_IMAGE),
        ([RIGHT, WRONG_IMAGE], UNDECIDED),
        ([RIGHT, RIGHT, WRONG_IMAGE], RIGHT),
        ([RIGHT, WRONG_QUESTION, WRONG_IMAGE, RIGHT], UNDECIDED),
        ([RIGHT, WRONG_IMAGE, WRONG_IMAGE, WRONG_QUESTION], WRONG_IMAGE),
        # Nobody knows that the image is at fault, so that its record stays.
        ([RIGHT, WRONG_QUESTION, WRONG_IMAGE], WRONG_QUESTION),
    ],
)
def test_more_people_decide(answers: list[str], mark: str) -> None:
    votes = [Vote(f"r{n}", 1, answer, answer) for n, answer in enumerate(answers)]
    assert find_marks([Item("unseen"), Item("seen")], votes) == {"seen": mark}


def test_the_page_shows_a_question_with_its_answer_its_words_and_its_image(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, 2)
    with open_client(folder) as client:
        turn = client.get("/turn", params={"rater": "anna"}).json()
        number = turn["item"]
        assert [one["text"] for one in turn["texts"]] == [
            f"What is {number}?",
            f"It is <b>red</b> {number}.",
            "red and big or yes",
        ]
        (image,) = turn["images"]
        shown = Image.open(io.BytesIO(client.get(f"/{image}").content))
        assert shown.size == (320, 240)
        assert client.get(f"/images/{number}/1").status_code == 404
        (folder / "images" / "color" / f"{1 - number}.jpg").unlink()
        found = client.get(f"/images/{1 - number}/0")
        assert (found.status_code, "not_found" in found.text) == (404, True)


def test_votes_become_marks_that_a_later_look_changes(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, 4)
    assert read_marks(str(folder)) == {}
    with open_client(folder) as client:
        for number, choice in enumerate((RIGHT, WRONG_QUESTION, WRONG_IMAGE)):
            vote(client, "Anna", number, choice)
    expected = {"color-0": RIGHT, "color-1": WRONG_QUESTION, "color-2": WRONG_IMAGE}
    assert read_marks(str(folder)) == expected
    with open_client(folder) as client:
        assert client.get("/turn", params={"rater": "anna"}).json()["done"] == 3
        vote(client, "anna", 1, RIGHT)
        vote(client, "bela", 2, RIGHT)
    expected |= {"color-1": RIGHT, "color-2": UNDECIDED}
    assert read_marks(str(folder)) == expected
    figures = json.loads((folder / MARKS).read_text())
    assert (figures["questions"], figures["votes"]) == (4, 4)
    assert figures["raters"] == {"anna": 3, "bela": 1}


def test_questions_that_are_new_join_and_a_changed_one_is_refused(tmp_path: Path) -> None:
    folder = write_benchmark(tmp_path, 2)
    with open_client(folder) as client:
        vote(client, "anna", 0, WRONG_QUESTION)
    write_benchmark(tmp_path, 2, start=1)  # color-0 is gone, color-2 is new
    with open_client(folder) as client:
        assert client.get("/question").json()["items"] == 3
        vote(client, "anna", 2, RIGHT)
    assert read_marks(str(folder)) == {"color-0": WRONG_QUESTION, "color-2": RIGHT}
    questions = folder / "keywords.jsonl"
    questions.write_text(questions.read_text().replace("What is 2?", "Who is 2?"))
    with pytest.raises(ConfigError, match="another 'color-2'"), open_client(folder):
        pass


def test_votes_belong_to_one_benchmark_and_lie_on_a_disk(tmp_path: Path) -> None:
    folder, other = write_benchmark(tmp_path / "a", 1), write_benchmark(tmp_path / "b", 1)
    open_votes(str(folder), str(tmp_path / "votes")).close()
    with pytest.raises(ConfigError, match="was made with benchmark"):
        open_votes(str(other), str(tmp_path / "votes"))
    with pytest.raises(ConfigError, match="votes: found 'memory://votes'"):
        open_votes(str(folder), "memory://votes")
    with pytest.raises(InputError, match="run the stage benchmark first"):
        open_votes(str(tmp_path / "none"), str(tmp_path / "new"))


@pytest.mark.parametrize("text", ["", "[]", '{"marks": 1}'])
def test_a_file_of_marks_that_is_none_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / MARKS).write_text(text)
    with pytest.raises(InputError, match="is no file of marks"):
        read_marks(str(tmp_path))
