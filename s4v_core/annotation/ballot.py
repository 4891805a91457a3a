"""The items that a rater sees next, and the meaning of a vote: the page's requests without HTTP.

Each rater answers every item, in an order of their own. A vote counts once its store has it.
"""

import hashlib
import threading
import unicodedata
from collections import defaultdict
from typing import Any

from s4v_core.annotation.questions import Item, Question
from s4v_core.annotation.vote_store import Vote, VoteStore
from s4v_core.errors import ConfigError
from s4v_core.terminal import printable

_LONGEST_NAME = 64
_LONGEST_LOOK_S = 86_400.0


class Ballot:
    """The raters of a study and their votes. Safe for several threads."""

    def __init__(self, question: Question, store: VoteStore) -> None:
        self.question, self._store = question, store
        self._lock = threading.Lock()
        self._orders: dict[str, list[int]] = {}
        self._answers: defaultdict[str, dict[int, str]] = defaultdict(dict)
        for vote in store.read_votes():
            self._answers[vote.rater][vote.item] = vote.answer

    def describe_question(self) -> dict[str, Any]:
        """The parts of the page that are the same for every item."""
        choices = [
            {"value": one.value, "label": one.label, "keys": one.keys}
            for one in self.question.choices
        ]
        return {"items": len(self._store.items), "choices": choices}

    def find_turn(self, rater: str, at: int | None = None) -> dict[str, Any]:
        """The page of a rater's next unanswered item, or of the one at a place of their order.

        Raises:
            ConfigError: There is no such place, or the name is none.
        """
        rater = read_name(rater)
        order, answers = self._find_order(rater), self._answers.get(rater, {})
        state = {"rater": rater, "done": len(answers), "total": len(order)}
        if at is None:
            at = next((at for at, item in enumerate(order) if item not in answers), len(order))
        if at == len(order):
            return state | {"at": at, "item": None}
        if not 0 <= at < len(order):
            raise ConfigError(f"at: found {at}, allowed 0 to {len(order)}")
        item = self._store.items[order[at]]
        shown = self.question.show(item, rater)
        answer = answers.get(order[at])
        chosen = None if answer is None else self.question.find_choice(item, rater, answer)
        texts = [{"heading": heading, "text": text} for heading, text in shown.texts]
        images = [f"images/{order[at]}/{number}" for number in range(shown.images)]
        return state | {
            "at": at,
            "item": order[at],
            "images": images,
            "texts": texts,
            "chosen": chosen,
        }

    def vote(self, rater: str, number: int, choice: str, seconds: float) -> None:
        """Store a vote; it is durable when this returns.

        Raises:
            ConfigError: There is no such item or choice, or the name is none.
            StorageError: The store fails; the vote does not count.
        """
        rater, item = read_name(rater), self.find_item(number)
        allowed = [one.value for one in self.question.choices]
        if choice not in allowed:
            raise ConfigError(f"choice: found {choice!r}, allowed {', '.join(allowed)}")
        answer = self.question.read_choice(item, rater, choice)
        seconds = min(max(seconds, 0.0), _LONGEST_LOOK_S)
        with self._lock:  # so that memory and store agree on which of two votes is the later
            self._store.add(Vote(rater, number, choice, answer, seconds))
            self._answers[rater][number] = answer

    def find_item(self, number: int) -> Item:
        """The item of this number.

        Raises:
            ConfigError: There is none.
        """
        if not 0 <= number < len(self._store.items):
            raise ConfigError(f"item: found {number}, allowed 0 to {len(self._store.items) - 1}")
        return self._store.items[number]

    def _find_order(self, rater: str) -> list[int]:
        """All items in this rater's order, which nobody can foresee."""
        if rater not in self._orders:
            base = f"{self._store.secret}/{rater}"
            ranks = range(len(self._store.items))
            self._orders[rater] = sorted(ranks, key=lambda n: draw_digest(base, n))
        return self._orders[rater]


def draw_digest(base: str, name: object) -> bytes:
    """Bytes that look random and are always the same for the same two."""
    return hashlib.sha256(f"{base}/{name}".encode("utf-8", "surrogatepass")).digest()


def read_name(text: str) -> str:
    """A rater's name in one spelling, so that Anna is `anna` on every device.

    Raises:
        ConfigError: The text is empty, too long or unprintable.
    """
    name = " ".join(unicodedata.normalize("NFKC", text).split()).casefold()
    if not name or len(name) > _LONGEST_NAME or not name.isprintable():
        raise ConfigError(
            f"rater: found {printable(name[:_LONGEST_NAME])!r}, needed a name of 1 to "
            f"{_LONGEST_NAME} printable characters"
        )
    return name
