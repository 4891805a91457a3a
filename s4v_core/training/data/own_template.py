"""Conversations in a checkpoint's own chat template, as pieces of which the answers are learnt.

The template is rendered once for each form of conversation, with marks in place of what is said.
So words that spell a special token stay words, and what is learnt follows from the marks.
"""

import re
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoProcessor

from s4v_core.chat import Piece
from s4v_core.engines.chat_formats import ChatFormat, find_chat_format
from s4v_core.engines.requests import Request
from s4v_core.engines.template_guard import GuardedTemplate
from s4v_core.errors import ConfigError

Render = Callable[[tuple[tuple[str, str], ...], tuple[int, ...], str | None], str]
"""Renders (question, answer) turns, the turn of each image, and a system text or None."""

_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)
_QUESTION, _ANSWER, _SYSTEM = "\ue010q{}\ue011", "\ue010a{}\ue011", "\ue010s\ue011"
_MARK = re.compile("( ?)\ue010([qas])([0-9]*)\ue011( ?)")


class OwnTemplate:
    """The chat template of a checkpoint, with the methods of `chat.Template` that training uses.

    Attributes:
        name: Always "model".
        has_questions: Always True.
        has_bos: Always False: a template that wants BOS writes it itself.
    """

    name = "model"
    has_questions = True
    has_bos = False

    def __init__(self, render: Render, tokenizer: Any, image_token: str) -> None:
        """Args:
        render: Renders a finished conversation; it may be slow.
        image_token: The token that stands for an image in the rendered text.
        """
        self._render = render
        self._texts: dict[tuple[int, tuple[int, ...], bool], str] = {}
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
        form = (len(turns), tuple(image_turns), system is not None)
        if form not in self._texts:
            self._texts[form] = self._render_form(*form)
        text = self._texts[form]
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

    def _render_form(self, turns: int, image_turns: tuple[int, ...], has_system: bool) -> str:
        """The text of all conversations of one form, with marks for what is said."""
        # The space on either side shows whether the template strips what is said.
        marked = tuple((f" {_QUESTION.format(n)} ", f" {_ANSWER.format(n)} ") for n in range(turns))
        return self._render(marked, image_turns, f" {_SYSTEM} " if has_system else None)

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


class CheckpointRender:
    """Renders conversations with the chat template of a checkpoint folder, in a child with limits.
    Picklable: each process loads the template when it first needs it."""

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder}

    def __call__(
        self, turns: tuple[tuple[str, str], ...], image_turns: tuple[int, ...], system: str | None
    ) -> str:
        guard, found = self._loaded
        *earlier, (question, answer) = turns
        images = (_NO_PIXELS,) * len(image_turns)
        request = Request("", "", images, question, tuple(earlier), system, image_turns)
        messages = found.make_messages(request)
        content: Any = answer
        if isinstance(messages[-1]["content"], list):
            content = [{"type": "text", "text": answer}]
        messages = [*messages, {"role": "assistant", "content": content}]
        return guard.render(found.template, messages, found.switches, is_asked=False)

    @cached_property
    def _loaded(self) -> tuple[GuardedTemplate, ChatFormat]:
        processor = AutoProcessor.from_pretrained(self._folder, trust_remote_code=False)
        kind = AutoConfig.from_pretrained(self._folder, trust_remote_code=False).model_type
        guard = GuardedTemplate(self._folder, processor.tokenizer.special_tokens_map)
        return guard, find_chat_format(processor, kind, guard.render)
