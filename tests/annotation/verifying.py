"""Another kind of question for the same page: whether an answer to a question is right."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from starlette.testclient import TestClient

from s4v_core.annotation.ballot import Ballot
from s4v_core.annotation.questions import Choice, Item, Question, Shown
from s4v_core.annotation.server import StudyPages
from s4v_core.annotation.vote_store import VoteStore, create_votes
from tests.conftest import photo


class Verify(Question):
    title = "Is the answer <b>right</b>?"
    instruction = "Look at the image & judge."
    choices = (Choice("yes", "Right", ("y",)), Choice("no", "Wrong", ("n",)))

    def show(self, item: Item, rater: str) -> Shown:
        texts = (("Question", item.about["question"]), ("Answer", item.about["answer"]))
        return Shown(item.about["images"], texts)

    def read_image(self, item: Item, number: int) -> bytes | str:
        return photo(number) if number < item.about["images"] else "not_found"


def make_items(count: int) -> list[Item]:
    about = {"question": "How many?", "answer": "<script>window.hit=1</script>", "images": 2}
    return [Item(f"../../item {n}", about) for n in range(count)]


@contextmanager
def open_study(folder: Path, key: str | None = None) -> Iterator[tuple[TestClient, VoteStore]]:
    """The application of a study of five items."""
    create_votes(folder / "votes.sqlite", {}, make_items(5))
    store = VoteStore(folder / "votes.sqlite")
    pages = StudyPages(Ballot(Verify(), store), key)
    try:
        yield TestClient(pages.build_app(), "http://127.0.0.1:1"), store
    finally:
        pages.close()
        store.close()
