"""Pieces of a conversation -> token ids, and which of them are learnt.

Learnt tokens follow from where they stand in the text, never from counting tokens of parts again:
the original counts, and where the counts differ it silently learns nothing (LLaVA#661, #1166).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s4v_core import chat
from s4v_core.chat import Piece

IGNORED = -100
"""Label of positions without loss."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation in tokens; the image is one id, however many tokens it takes.

    Attributes:
        ids: BOS first.
        learnt: Of each id, whether it carries loss.
        length: Tokens with the image expanded.
    """

    ids: list[int]
    learnt: list[bool]
    length: int


class Encoder:
    """Encodes for one model.

    Args:
        tokenizer: A fast one (it knows where in the text a token stands).
        image_id: The id that stands for an image.
        image_tokens: Tokens that an image takes.
        max_tokens: Longest sample, image expanded. Text behind it is cut.
    """

    def __init__(self, tokenizer: Any, image_id: int, image_tokens: int, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._image_id, self._image_tokens = image_id, image_tokens
        self._max_tokens = max_tokens

    def encode(self, pieces: Sequence[Piece]) -> Encoded | str:
        """Tokens of a conversation, or the reason why nothing of it can be learnt.

        Reasons: `too_long` (the image does not fit), `nothing_learnt`.
        """
        ids, learnt = chat.encode(pieces, self._tokenizer, self._image_id)
        expansion = (self._image_tokens - 1) * ids.count(self._image_id)
        room = max(self._max_tokens - expansion, 0)
        if self._image_id in ids[room:]:
            return "too_long"
        ids, learnt = ids[:room], learnt[:room]
        if not any(learnt):
            return "nothing_learnt"
        return Encoded(ids, learnt, len(ids) + expansion)
