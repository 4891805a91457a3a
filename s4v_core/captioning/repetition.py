"""Finds texts that many different images of a run have in common, in bounded memory."""

import hashlib
import struct
from dataclasses import dataclass, field

_CAPACITY = 20_000
"""Texts that are counted at the same time. Every text that more than one in so many has is among
them."""

_IMAGE_BITS = 1 << 26
"""Bits that remember images (8 MiB): one image in a hundred is taken for a known one after four
million."""

_HASHES = 4
_LEAST_WORDS = 4
"""Sentences with fewer words ("It is sunny.") say nothing about a model."""


@dataclass(frozen=True, slots=True)
class SharedText:
    """A text and how many different images have it, counted at least."""

    text: str
    images: int


@dataclass(slots=True)
class FrequentTexts:
    """Counts texts as they stream by (Misra and Gries): exact as long as they are no more than
    `_CAPACITY`; after that a count may be too low, never too high."""

    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, text: str) -> None:
        counts = self._counts
        if text in counts or len(counts) < _CAPACITY:
            counts[text] = counts.get(text, 0) + 1
            return
        self._counts = {one: count - 1 for one, count in counts.items() if count > 1}

    def list_shared(self, least: int, most: int) -> list[SharedText]:
        """Up to `most` texts that at least `least` images have, the most frequent first."""
        found = sorted(
            (one for one in self._counts.items() if one[1] >= least), key=lambda one: -one[1]
        )
        return [SharedText(*one) for one in found[:most]]


class RepeatedTexts:
    """Captions and sentences of a run that several different images share.

    Equal images may have equal captions: an image counts once, by the hash of its bytes.
    """

    def __init__(self) -> None:
        self.captions, self.sentences = FrequentTexts(), FrequentTexts()
        self._seen = bytearray(_IMAGE_BITS // 8)

    def add(self, caption: str, image_sha256: str) -> None:
        """Count the caption of an image, unless the image was counted before."""
        if self._is_known(image_sha256):
            return
        plain = " ".join(caption.split())
        self.captions.add(plain)
        for sentence in set(_split_sentences(plain)):
            if sentence.count(" ") >= _LEAST_WORDS - 1:
                self.sentences.add(sentence)

    def _is_known(self, image_sha256: str) -> bool:
        digest = hashlib.blake2b(image_sha256.encode(), digest_size=4 * _HASHES).digest()
        is_known = True
        for place in struct.unpack(f"<{_HASHES}I", digest):
            octet, bit = divmod(place % _IMAGE_BITS, 8)
            is_known &= bool(self._seen[octet] >> bit & 1)
            self._seen[octet] |= 1 << bit
        return is_known


def _split_sentences(text: str) -> list[str]:
    """The sentences of a text in one line, without the marks that end them; quick, not exact."""
    ended = text.replace("! ", ". ").replace("? ", ". ")
    return [sentence.rstrip(".!?") for sentence in ended.split(". ")]
