"""The question of Table 2: which of two captions of one image is better, asked blindly."""

from s4v_core.annotation.ballot import draw_digest
from s4v_core.annotation.questions import Choice, Item, Question, Shown
from s4v_core.inputs.image_bytes import read_images

A, B, COMPARABLE = "a", "b", "comparable"
"""Answers: the caption of the first set is better, that of the second, or neither."""

ANSWERS = (A, B, COMPARABLE)

_LEFT, _RIGHT = "left", "right"


class Preference(Question):
    """Which of two captions is better.

    The side of each caption is drawn for every rater and image, and no request tells it.
    """

    title = "Which text describes the image better?"
    instruction = (
        "Judge what a text says of the image: is it right, and is what matters there? If neither "
        "is better, say that they are comparable."
    )
    choices = (
        Choice(_LEFT, "Text 1", ("1", "ArrowLeft")),
        Choice(COMPARABLE, "Comparable", ("0", " ", "ArrowDown")),
        Choice(_RIGHT, "Text 2", ("2", "ArrowRight")),
    )

    def __init__(self, secret: str) -> None:
        self._secret = secret

    def show(self, item: Item, rater: str) -> Shown:
        texts = (item.about["a"], item.about["b"])
        first, second = texts if self._is_a_left(item, rater) else texts[::-1]
        return Shown(1, (("Text 1", first), ("Text 2", second)))

    def read_image(self, item: Item, number: int) -> bytes | str:
        return read_images([item.about["place"]])[0] if number == 0 else "not_found"

    def read_choice(self, item: Item, rater: str, choice: str) -> str:
        if choice == COMPARABLE:
            return COMPARABLE
        return A if (choice == _LEFT) == self._is_a_left(item, rater) else B

    def find_choice(self, item: Item, rater: str, answer: str) -> str:
        if answer == COMPARABLE:
            return COMPARABLE
        return _LEFT if (answer == A) == self._is_a_left(item, rater) else _RIGHT

    def _is_a_left(self, item: Item, rater: str) -> bool:
        return draw_digest(f"{self._secret}/side/{rater}", item.item_id)[0] % 2 == 0
