"""One kind of question that people answer about items, as the page and the store know it."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Item:
    """A thing that is asked about.

    Attributes:
        item_id: Identifies it in its store.
        about: What its question wants to know of it, as values that JSON can hold.
    """

    item_id: str
    about: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer that people may choose.

    Attributes:
        value: Its name in requests.
        label: Text of its button.
        keys: Keys that choose it, by the names that browsers give them; the first is shown.
    """

    value: str
    label: str
    keys: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """The parts of a page about one item.

    Attributes:
        images: Number of its images.
        texts: Heading and text of each column; a heading may be empty.
    """

    images: int
    texts: tuple[tuple[str, str], ...]


class Question(ABC):
    """A kind of question.

    Attributes:
        title: Heading of the page.
        instruction: The question itself, in one or two sentences.
        choices: Its possible answers.
    """

    title: str
    instruction: str
    choices: tuple[Choice, ...]

    @abstractmethod
    def show(self, item: Item, rater: str) -> Shown:
        """The page of an item for a rater; always the same for the same two."""

    @abstractmethod
    def read_image(self, item: Item, number: int) -> bytes | str:
        """An image as it is stored, or the reason why there is none."""

    def read_choice(self, item: Item, rater: str, choice: str) -> str:
        """The answer that a choice on this rater's page means."""
        return choice

    def find_choice(self, item: Item, rater: str, answer: str) -> str:
        """The choice on this rater's page that means an answer."""
        return answer
