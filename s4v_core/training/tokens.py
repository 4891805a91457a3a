"""Pieces of a conversation -> token ids, and which of them are learnt.

Learnt tokens follow from where they stand in the text, never from counting tokens of parts again:
the original counts, and where the counts differ it silently learns nothing (LLaVA#661, #1166).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

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
        ids, learnt = [self._tokenizer.bos_token_id], [False]
        for kind, group in groupby(pieces, key=lambda piece: piece.kind):
            for part in [list(group)] if kind == "text" else [[p] for p in group]:
                more_ids, more_learnt = self._part(part)
                ids += more_ids
                learnt += more_learnt
        expansion = (self._image_tokens - 1) * ids.count(self._image_id)
        room = max(self._max_tokens - expansion, 0)
        if self._image_id in ids[room:]:
            return "too_long"
        ids, learnt = ids[:room], learnt[:room]
        if not any(learnt):
            return "nothing_learnt"
        return Encoded(ids, learnt, len(ids) + expansion)

    def _part(self, part: list[Piece]) -> tuple[list[int], list[bool]]:
        if part[0].kind == "image":
            return [self._image_id], [False]
        if part[0].kind == "end":
            return [self._tokenizer.eos_token_id], [part[0].learnt]
        # What lies between two single tokens is encoded as one text, as the original does: the
        # tokens at the seams of its pieces are those that inference sees. Words that spell a
        # special token stay words.
        found = self._tokenizer(
            "".join(piece.text for piece in part),
            add_special_tokens=False,
            return_offsets_mapping=True,
            split_special_tokens=True,
        )
        flags = [piece.learnt for piece in part for _ in piece.text]
        starts = [min(start, len(flags) - 1) for start, _ in found.offset_mapping]
        return list(found.input_ids), [flags[start] for start in starts]
