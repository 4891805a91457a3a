"""Encodes a conversation as token ids, and marks the ids that are learnt.

Whether a token is learnt follows from its position in the text. The original counts the tokens of
each part again instead; where the counts differ, it silently learns nothing (LLaVA#661, #1166).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s4v_core import chat
from s4v_core.chat import Piece

IGNORED = -100
"""Label of a position that carries no loss."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """A conversation in tokens.

    Attributes:
        ids: Token ids, BOS first. The image is one id, however many tokens it takes.
        learnt: Whether each id carries loss.
        length: Number of tokens with the image expanded.
    """

    ids: list[int]
    learnt: list[bool]
    length: int


class Encoder:
    """Encodes conversations for one model.

    Args:
        tokenizer: A fast tokenizer, which knows each token's position in the text.
        image_id: The token id that marks an image.
        image_tokens: Number of tokens that an image takes.
        max_tokens: Length of the longest sample, image expanded. Text beyond it is cut.
    """

    def __init__(self, tokenizer: Any, image_id: int, image_tokens: int, max_tokens: int) -> None:
        self._tokenizer = tokenizer
        self._image_id, self._image_tokens = image_id, image_tokens
        self._max_tokens = max_tokens

    def encode(self, pieces: Sequence[Piece], has_bos: bool = True) -> Encoded | str:
        """Encode a conversation, or return the reason why nothing of it can be learnt.

        Args:
            has_bos: Whether BOS comes first, if the tokenizer has one.

        Reasons: `too_long` (the image does not fit), `nothing_learnt`.
        """
        ids, learnt = chat.encode(pieces, self._tokenizer, self._image_id, has_bos)
        expansion = (self._image_tokens - 1) * ids.count(self._image_id)
        room = max(self._max_tokens - expansion, 0)
        if self._image_id in ids[room:]:
            return "too_long"
        ids, learnt = ids[:room], learnt[:room]
        if not any(learnt):
            return "nothing_learnt"
        return Encoded(ids, learnt, len(ids) + expansion)
