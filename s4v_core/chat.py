"""Conversation templates: the text of a conversation, which parts are learnt, and its token ids.

Imports no tokenizer; callers pass theirs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

from s4v_core.errors import ConfigError

IMAGE = "<image>"
"""The mark that represents an image in a text; exactly one per image."""

_END = "</s>"
"""The mark that ends an answer; it is a single token."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a rendered conversation.

    Attributes:
        text: The text of this part.
        kind: "image", "end" and "special" are one token each, and a special one is spelled by its
            text; "text" is plain words, even if they spell a special token.
        learnt: Whether the loss is computed on its tokens.
    """

    text: str
    kind: Literal["text", "image", "end", "special"] = "text"
    learnt: bool = False


@dataclass(frozen=True, slots=True)
class Template:
    """The rules by which the turns of a conversation become one text.

    Attributes:
        name: Name in `TEMPLATES`.
        system: Text at the very beginning.
        user, assistant: Names of the speakers, written before their turns.
        turn_end: Text after every question.
        answer_lead: Text before every answer.
        answer_end: Piece after every finished answer.
        has_questions: Whether the questions are part of the text.
        has_bos: Whether BOS comes before the text.
    """

    name: str
    system: str
    user: str
    assistant: str
    turn_end: str
    answer_lead: str
    answer_end: Piece
    has_questions: bool = True
    has_bos: bool = True

    def build_pieces(
        self,
        turns: Sequence[tuple[str, str | None]],
        image_turns: Sequence[int] = (0,),
        system: str | None = None,
    ) -> list[Piece]:
        """Render (question, answer) turns in order; the answer of the last turn may be None.

        Args:
            image_turns: For each image, the index of the question that it comes before.
            system: Replaces the template's own text at the beginning.
        """
        pieces = [Piece(self.system if system is None else f"{system} ")]
        for number, (question, answer) in enumerate(turns):
            pieces.append(Piece(self.user))
            images = image_turns.count(number)
            for image in range(images):
                if image:
                    pieces.append(Piece("\n"))  # one image per line
                pieces.append(Piece(IMAGE, "image"))
            if self.has_questions:
                lead = "\n" if images else ""
                pieces.append(Piece(f"{lead}{question}{self.turn_end}"))
            pieces.append(Piece(self.assistant))
            if answer is not None:
                pieces.append(Piece(f"{self.answer_lead}{answer}", learnt=True))
                pieces.append(self.answer_end)
        return [piece for piece in pieces if piece.text]

    def render(self, question: str, answers: Sequence[tuple[str, str]] = ()) -> str:
        """Build the prompt that asks `question` about one image, after earlier turns.

        The image comes before the first question, as in training (preprocess_multimodal).

        Args:
            answers: Earlier (question, answer) turns.

        Raises:
            ConfigError: A question contains the image mark.
        """
        for text in (question, *(earlier for earlier, _ in answers)):
            refuse_image_mark(text)
        return "".join(piece.text for piece in self.build_pieces([*answers, (question, None)]))


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
    answer_end=Piece(_END, "end", learnt=True),
)
"""share4v/conversation.py `vicuna_v1`: for SFT, demo, evaluation and our captioner."""

PLAIN = Template(
    name="plain",
    system="",
    user="",
    assistant="",
    turn_end="",
    answer_lead="",
    answer_end=Piece("\n", learnt=True),
    has_questions=False,
)
"""share4v/conversation.py `plain`: for pretraining. Image, caption and newline, no end mark."""


def refuse_image_mark(text: str) -> None:
    """Raise ConfigError if a text contains the image mark, which only a template may write."""
    if IMAGE in text:
        raise ConfigError(f"prompt: found {IMAGE} in {text!r}; the image is put in front of it")


TEMPLATES = {template.name: template for template in (VICUNA_V1, PLAIN)}


def find_template(name: str) -> Template:
    """The template called `name`.

    Raises:
        ConfigError: There is no such template.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"template: found {name!r}, allowed {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]


def encode(
    pieces: Sequence[Piece], tokenizer: Any, image_id: int | None, has_bos: bool = True
) -> tuple[list[int], list[bool]]:
    """Turn pieces into token ids and a flag for each: whether it is learnt.

    The ids are those of the whole text, cut at once, where images and ends are special tokens, as
    every engine cuts a prompt. Words that spell a special token are encoded as words.

    Args:
        tokenizer: A fast tokenizer of transformers, because it reports the position of each token
            in the text.
        image_id: The one id that represents an image, however many tokens the model uses for it.
        has_bos: Whether BOS comes first, if the tokenizer has one.
    """
    texts = [piece.text if piece.kind == "text" else _mark(piece, tokenizer) for piece in pieces]
    marked = _add_marks(tokenizer)
    encoded = marked.encode("".join(texts), add_special_tokens=False)
    flags = [piece.learnt for piece, text in zip(pieces, texts, strict=True) for _ in text]
    meant = {
        marked.token_to_id(_mark(piece, tokenizer)): _find_id(piece, tokenizer, image_id)
        for piece in pieces
        if piece.kind != "text"
    }
    ids, learnt = [], []
    if has_bos and tokenizer.bos_token_id is not None:
        ids, learnt = [tokenizer.bos_token_id], [False]
    for token, (start, _) in zip(encoded.ids, encoded.offsets, strict=True):
        ids.append(meant.get(token, token))
        learnt.append(flags[min(start, len(flags) - 1)])
    return ids, learnt


def _find_id(piece: Piece, tokenizer: Any, image_id: int | None) -> int:
    if piece.kind == "image":
        assert image_id is not None, "the model has no image token"
        return image_id
    text = tokenizer.eos_token if piece.kind == "end" else piece.text
    found: int = tokenizer.convert_tokens_to_ids(text)
    return found


def _mark(piece: Piece, tokenizer: Any) -> str:
    """The text, in the private area of Unicode, that stands for a special token while all is
    encoded."""
    text = tokenizer.eos_token if piece.kind == "end" else piece.text
    return f"\ue000{text}\ue001"


@lru_cache(maxsize=8)
def _add_marks(tokenizer: Any) -> Any:
    """The tokenizer's backend (of the package tokenizers), copied, with a mark for each special
    token as an ordinary added token.

    The special tokens themselves cannot be written into the text, because words that spell them
    are words. What a special token does to the spaces beside it, its mark does as well. Nothing of
    the copy changes later: an engine's threads share the tokenizer itself, and each call of it may
    set how special tokens are read.
    """
    from tokenizers import AddedToken, Tokenizer

    marked = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    marked.no_truncation()
    marked.no_padding()
    known = {str(token): token for token in tokenizer.added_tokens_decoder.values()}
    marked.add_tokens(
        [
            AddedToken(
                f"\ue000{text}\ue001",
                normalized=False,
                lstrip=getattr(known.get(text), "lstrip", False),
                rstrip=getattr(known.get(text), "rstrip", False),
            )
            for text in {IMAGE, *tokenizer.all_special_tokens, *known}
        ]
    )
    marked.encode_special_tokens = True
    return marked
