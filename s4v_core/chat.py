"""Conversation templates as pure text, with the parts that are learnt. Knows no tokenizer."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s4v_core.errors import ConfigError

IMAGE = "<image>"
"""Stands for the image in a text; exactly one per image."""

END = "</s>"
"""Closes an answer; one token of its own."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered conversation.

    Attributes:
        kind: image and end stand for their one token; text is words, whatever they spell.
        learnt: Whether its tokens carry loss.
    """

    text: str
    kind: Literal["text", "image", "end"] = "text"
    learnt: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """How turns become one text.

    Attributes:
        system: Said first.
        user, assistant: Names in front of the turns.
        turn_end: Behind every question.
        answer_lead: In front of every answer.
        answer_end: Behind every finished answer.
        asks: Whether questions are said at all.
    """

    name: str
    system: str
    user: str
    assistant: str
    turn_end: str
    answer_lead: str
    answer_end: Piece
    asks: bool = True

    def pieces(
        self, turns: Sequence[tuple[str, str | None]], image_turn: int | None = 0
    ) -> list[Piece]:
        """(question, answer) turns in order; an answer of None is still to be given.

        Args:
            image_turn: Which question the image stands in front of; None without an image.
        """
        found = [Piece(self.system)]
        for number, (question, answer) in enumerate(turns):
            found.append(Piece(self.user))
            if number == image_turn:
                found.append(Piece(IMAGE, "image"))
            if self.asks:
                lead = "\n" if number == image_turn else ""
                found.append(Piece(f"{lead}{question}{self.turn_end}"))
            found.append(Piece(self.assistant))
            if answer is not None:
                found.append(Piece(f"{self.answer_lead}{answer}", learnt=True))
                found.append(self.answer_end)
        return [piece for piece in found if piece.text]

    def render(self, question: str, answers: Sequence[tuple[str, str]] = ()) -> str:
        """The text that asks `question` about one image, after earlier (question, answer) turns.

        The image stands before the first question, as in training (preprocess_multimodal).

        Raises:
            ConfigError: A question holds the image mark.
        """
        for text in (question, *(earlier for earlier, _ in answers)):
            if IMAGE in text:
                raise ConfigError(
                    f"prompt: found {IMAGE} in {text!r}; the image is put in front of it"
                )
        return "".join(piece.text for piece in self.pieces([*answers, (question, None)]))


VICUNA_V1 = Template(
    name="vicuna_v1",
    system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    ),
    user="USER: ",
    assistant="ASSISTANT:",
    turn_end=" ",
    answer_lead=" ",
    answer_end=Piece(END, "end", learnt=True),
)
"""share4v/conversation.py `vicuna_v1`: SFT, demo, evaluation and our captioner."""

PLAIN = Template(
    name="plain",
    system="",
    user="",
    assistant="",
    turn_end="",
    answer_lead="",
    answer_end=Piece("\n", learnt=True),
    asks=False,
)
"""share4v/conversation.py `plain`: pretraining. The image, the caption, a newline; no end mark."""

TEMPLATES = {template.name: template for template in (VICUNA_V1, PLAIN)}


def template(name: str) -> Template:
    """The template of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"template: found {name!r}, allowed {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]
