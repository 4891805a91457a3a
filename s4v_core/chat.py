"""Conversation templates as pure text, with the parts that are learnt, and their token ids.

Imports no tokenizer; who has one brings it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any, Literal

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
        self,
        turns: Sequence[tuple[str, str | None]],
        image_turns: Sequence[int] = (0,),
        system: str | None = None,
    ) -> list[Piece]:
        """(question, answer) turns in order; an answer of None is still to be given.

        Args:
            image_turns: For each image, the question that it stands in front of, counted from 0.
            system: Said first in place of the template's own.
        """
        found = [Piece(self.system if system is None else f"{system} ")]
        for number, (question, answer) in enumerate(turns):
            found.append(Piece(self.user))
            images = image_turns.count(number)
            for image in range(images):
                if image:
                    found.append(Piece("\n"))  # one image per line
                found.append(Piece(IMAGE, "image"))
            if self.asks:
                lead = "\n" if images else ""
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
            refuse_image_mark(text)
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


def refuse_image_mark(text: str) -> None:
    """Raises ConfigError: The text spells the image mark, which the template puts in front of
    it."""
    if IMAGE in text:
        raise ConfigError(f"prompt: found {IMAGE} in {text!r}; the image is put in front of it")


TEMPLATES = {template.name: template for template in (VICUNA_V1, PLAIN)}


def template(name: str) -> Template:
    """The template of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"template: found {name!r}, allowed {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


def encode(
    pieces: Sequence[Piece], tokenizer: Any, image_id: int | None
) -> tuple[list[int], list[bool]]:
    """Token ids, BOS first, and of each whether it is learnt. Words that spell a special token
    stay words.

    Args:
        tokenizer: A fast one of transformers (it knows where in the text a token stands).
        image_id: The id that stands for an image, however many tokens it takes.
    """
    ids, learnt = [tokenizer.bos_token_id], [False]
    for kind, group in groupby(pieces, key=lambda piece: piece.kind):
        for part in [list(group)] if kind == "text" else [[piece] for piece in group]:
            more_ids, more_learnt = _encoded(part, tokenizer, image_id)
            ids += more_ids
            learnt += more_learnt
    return ids, learnt


def _encoded(
    part: list[Piece], tokenizer: Any, image_id: int | None
) -> tuple[list[int], list[bool]]:
    if part[0].kind == "image":
        assert image_id is not None, "the model has no image token"
        return [image_id], [False]
    if part[0].kind == "end":
        return [tokenizer.eos_token_id], [part[0].learnt]
    # What lies between two single tokens is encoded as one text, as the original does: the tokens
    # at the seams of its pieces are those that inference sees.
    found = tokenizer(
        "".join(piece.text for piece in part),
        add_special_tokens=False,
        return_offsets_mapping=True,
        split_special_tokens=True,
    )
    flags = [piece.learnt for piece in part for _ in piece.text]
    starts = [min(start, len(flags) - 1) for start, _ in found.offset_mapping]
    return list(found.input_ids), [flags[start] for start in starts]
