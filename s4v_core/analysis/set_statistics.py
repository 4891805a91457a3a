"""Statistics of captions that can be counted in parts and added up.

The figures do not depend on how the set was cut, as long as the parts are added in order.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from s4v_core.analysis.grammar import CLASSES, find_class, find_root_pair, parse_sentences

WINDOW = 1000
"""Words of a window. Shares of different words fall with the length of a text, and can only be
compared over windows of one size."""

_OPENING_WORDS = 3
_REPEATED_WORDS = 4
_LOOP_TIMES = 4
_BOILERPLATE = re.compile(
    r"(in )?(the|this|an?) (given |provided |presented )?"
    r"(image|picture|photo|photograph|scene|snapshot)\b",
    re.IGNORECASE,
)


@dataclass(slots=True)
class SetStatistics:
    """Counts of a set of captions.

    Attributes:
        captions, sentences, words: Totals; a word is a token with a letter or digit.
        characters: Captions by their length.
        word_counts: Captions by their number of words.
        vocabulary: Words in lower case.
        classes: Words by class of Table 7; words of no class are not counted.
        openings: First words of captions.
        boilerplate: Captions that begin like "The image shows".
        looping: Captions that say the same four words at least four times.
        repeated_grams, grams: Groups of four words that a caption had before, and all of them.
        pairs: Root verbs, each with the noun it is said of.
        windows: Number of windows of WINDOW words; `different[n - 1]` sums their different n-grams.
    """

    captions: int = 0
    sentences: int = 0
    words: int = 0
    characters: Counter[int] = field(default_factory=Counter)
    word_counts: Counter[int] = field(default_factory=Counter)
    vocabulary: Counter[str] = field(default_factory=Counter)
    classes: Counter[str] = field(default_factory=Counter)
    openings: Counter[str] = field(default_factory=Counter)
    boilerplate: int = 0
    looping: int = 0
    repeated_grams: int = 0
    grams: int = 0
    pairs: Counter[tuple[str, str]] = field(default_factory=Counter)
    windows: int = 0
    different: list[int] = field(default_factory=lambda: [0, 0, 0])
    _waiting: list[str] = field(default_factory=list)
    _digests: set[bytes] = field(default_factory=set)

    @classmethod
    def count(cls, texts: Iterable[str]) -> "SetStatistics":
        """Count captions."""
        found = cls()
        for text in texts:
            found._add(text)
        # Windows go on behind the captions of this part: they are cut when the parts are added.
        return found

    def add(self, other: "SetStatistics") -> None:
        """Add the counts of the captions that follow."""
        for name in ("captions", "sentences", "words", "boilerplate", "looping"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.repeated_grams += other.repeated_grams
        self.grams += other.grams
        for name in ("characters", "word_counts", "vocabulary", "classes", "openings", "pairs"):
            getattr(self, name).update(getattr(other, name))
        self._digests |= other._digests
        self._waiting += other._waiting
        self._cut_windows()

    @property
    def repeated_captions(self) -> int:
        """Captions that another one of the set has word for word."""
        return self.captions - len(self._digests)

    def measure_variety(self, size: int) -> float:
        """Share of different groups of `size` words: in windows of WINDOW words, or in the whole
        set if it has fewer."""
        if self.windows:
            return self.different[size - 1] / (self.windows * (WINDOW - size + 1))
        groups = max(len(self._waiting) - size + 1, 0)
        return _count_different(self._waiting, size) / groups if groups else 0.0

    def _add(self, text: str) -> None:
        sentences = parse_sentences(text)
        words = []
        for sentence in sentences:
            for token in sentence:
                if token.is_word:
                    words.append(token.text.lower())
                    if name := find_class(token.tag):
                        self.classes[name] += 1
            if pair := find_root_pair(sentence):
                self.pairs[pair] += 1
        self.captions += 1
        self.sentences += len(sentences)
        self.words += len(words)
        self.characters[len(text)] += 1
        self.word_counts[len(words)] += 1
        self.vocabulary.update(words)
        self.openings[" ".join(words[:_OPENING_WORDS])] += 1
        self.boilerplate += _BOILERPLATE.match(text.lstrip()) is not None
        self._digests.add(
            hashlib.blake2b(
                " ".join(text.split()).encode("utf-8", "replace"), digest_size=8
            ).digest()
        )
        self._count_repetition(words)
        self._waiting += words

    def _count_repetition(self, words: Sequence[str]) -> None:
        grams = Counter(zip(*(words[at:] for at in range(_REPEATED_WORDS)), strict=False))
        self.grams += grams.total()
        self.repeated_grams += grams.total() - len(grams)
        self.looping += max(grams.values(), default=0) >= _LOOP_TIMES

    def _cut_windows(self) -> None:
        end = len(self._waiting) // WINDOW * WINDOW
        for start in range(0, end, WINDOW):
            window = self._waiting[start : start + WINDOW]
            for size in (1, 2, 3):
                self.different[size - 1] += _count_different(window, size)
            self.windows += 1
        del self._waiting[:end]

    def describe(self) -> dict[str, Any]:
        """All figures, as they stand in the JSON report."""
        captions, words = max(self.captions, 1), max(self.words, 1)
        once = sum(count == 1 for count in self.vocabulary.values())
        return {
            "captions": self.captions,
            "characters": _describe_lengths(self.characters),
            "words": _describe_lengths(self.word_counts),
            "sentences_mean": self.sentences / captions,
            "tokens": self.words,
            "vocabulary": len(self.vocabulary),
            "words_used_once": once,
            "window": WINDOW if self.windows else len(self._waiting),
            "windows": self.windows,
            **{f"distinct_{size}": self.measure_variety(size) for size in (1, 2, 3)},
            "shares": {name: self.classes[name] / words for name in CLASSES},
            "repeated_groups": self.repeated_grams / max(self.grams, 1),
            "looping_captions": self.looping / captions,
            "repeated_captions": self.repeated_captions / captions,
            "boilerplate_openings": self.boilerplate / captions,
            "openings": _list_top(self.openings, 20),
            "frequent_words": _list_top(self.vocabulary, 30),
            "root_pairs": self.pairs.total(),
            "different_root_pairs": len(self.pairs),
            "frequent_root_pairs": _list_top(
                Counter({f"{verb} {noun}": n for (verb, noun), n in self.pairs.items()}), 50
            ),
        }


def _count_different(words: Sequence[str], size: int) -> int:
    return len(set(zip(*(words[at:] for at in range(size)), strict=False)))


def _list_top(counts: Counter[str], most: int) -> dict[str, int]:
    """The most frequent ones; of equal ones those that the alphabet has first."""
    return dict(sorted(counts.items(), key=lambda one: (-one[1], one[0]))[:most])


def _describe_lengths(lengths: Counter[int]) -> dict[str, float]:
    total = max(lengths.total(), 1)
    mean = sum(length * count for length, count in lengths.items()) / total
    found = {f"p{q}": find_quantile(lengths, q / 100) for q in (5, 50, 95)}
    return {"mean": mean, **found, "max": max(lengths, default=0)}


def find_quantile(lengths: Counter[int], share: float) -> int:
    """The smallest length that at least this share of all do not exceed; 0 of none."""
    wanted, seen = share * lengths.total(), 0
    for length in sorted(lengths):
        seen += lengths[length]
        if seen >= wanted:
            return length
    return 0
