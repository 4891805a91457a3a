"""Conversations in a checkpoint's own chat template, as pieces of which the answers are learnt.

The template is rendered once for each form of conversation, with marks in place of what is said.
So words that spell a special token stay words, and what is learnt follows from the marks.
"""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

from s4v_core import chat
from s4v_core.chat import Piece
from s4v_core.errors import ConfigError

Render = Callable[[tuple[tuple[str, str], ...], tuple[int, ...], str | None], str]
"""Renders (question, answer) turns, the turn of each image, and a system text or None."""

_QUESTION, _ANSWER, _SYSTEM = "\ue010q{}\ue011", "\ue010a{}\ue011", "\ue010s\ue011"
_MARK = re.compile("( ?)\ue010([qas])([0-9]*)\ue011( ?)")


class OwnTemplate:
    """The chat template of a checkpoint, with the methods of `chat.Template` that training uses.

    Attributes:
        name: Always "model".
        has_questions: Always True.
    """

    name = "model"
    has_questions = True

    def __init__(self, render: Render, tokenizer: Any, image_token: str) -> None:
        """Args:
        render: Renders a finished conversation; it may be slow.
        image_token: The token that stands for an image in the rendered text.
        """
        self._render = lru_cache(maxsize=256)(render)
        special = {image_token, *tokenizer.all_special_tokens}
        special |= {str(t) for t in tokenizer.added_tokens_decoder.values() if t.special}
        found = sorted(special, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, found))})")
        self._image_token = image_token

    def build_pieces(
        self,
        turns: Sequence[tuple[str, str]],
        image_turns: Sequence[int] = (0,),
        system: str | None = None,
    ) -> list[Piece]:
        """Render finished (question, answer) turns; answers are learnt with the special token that
        the template writes behind them.

        Args:
            image_turns: For each image, the index of the question that it comes before.
            system: Text for the system turn; without one, the template's own.

        Raises:
            ConfigError: The template fails, or leaves out or repeats something of a conversation.
        """
        # The space on either side shows whether the template strips what is said.
        marked = tuple(
            (f" {_QUESTION.format(n)} ", f" {_ANSWER.format(n)} ") for n in range(len(turns))
        )
        text = self._render(marked, tuple(image_turns), None if system is None else f" {_SYSTEM} ")
        said = {f"q{n}": question for n, (question, _) in enumerate(turns)}
        said |= {f"a{n}": answer for n, (_, answer) in enumerate(turns)}
        said |= {} if system is None else {"s": system}
        pieces = self._cut(text, said)
        if sum(piece.kind == "image" for piece in pieces) != len(image_turns):
            raise ConfigError(
                f"template: the checkpoint's own chat template does not write {len(image_turns)} "
                "images where a sample has them"
            )
        return pieces

    def _cut(self, text: str, said: dict[str, str]) -> list[Piece]:
        """The pieces of a rendered text, with what is said in place of the marks."""
        pieces: list[Piece] = []
        at, is_behind_answer, missing = 0, False, dict(said)
        for found in _MARK.finditer(text):
            pieces += self._split(text[at : found.start()], is_behind_answer)
            before, kind, number, behind = found.groups()
            if (words := missing.pop(kind + number, None)) is None:
                raise ConfigError("template: the checkpoint's own chat template repeats a turn")
            words = words if before else words.lstrip()
            words = words if behind else words.rstrip()
            is_behind_answer = kind == "a"
            pieces.append(Piece(words, learnt=is_behind_answer))
            at = found.end()
        if missing:
            raise ConfigError("template: the checkpoint's own chat template leaves out a turn")
        pieces += self._split(text[at:], is_behind_answer)
        return [piece for piece in pieces if piece.text]

    def _split(self, text: str, is_behind_answer: bool) -> list[Piece]:
        """The template's own text, split at special tokens. Behind an answer the first one is
        learnt, because it ends the answer."""
        pieces = []
        for number, part in enumerate(self._special.split(text)):
            if number % 2 == 0:
                pieces.append(Piece(part))
            elif part == self._image_token:
                pieces.append(Piece(part, "image"))
            else:
                ends = is_behind_answer and number == 1 and not pieces[0].text.strip()
                pieces.append(Piece(part, "special", learnt=ends))
        return pieces


def find_template(name: str, load_own: Callable[[], OwnTemplate]) -> "chat.Template | OwnTemplate":
    """The template called `name`; `load_own` gives the checkpoint's own, called model."""
    return load_own() if name == OwnTemplate.name else chat.find_template(name)
