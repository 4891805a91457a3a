"""The gate: is this text a caption at all? Pure text rules, no engine.

A rule names what it found. It judges form, never taste: good captions of any style must pass.
"""

import re
import unicodedata
import zlib
from collections import Counter
from typing import Self

from pydantic import Field, model_validator

from s4v_core.config import Config
from s4v_core.errors import ConfigError

SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "HANGUL", "CJK")
"""Writing systems by the first word of Unicode's character names; kana counts as CJK."""


class Gate(Config):
    """Which texts are captions. Part of what a run is identified by."""

    enabled: bool = True
    """Whether captions are judged at all."""
    min_words: int = Field(3, ge=0)
    """Shorter ones are too_short. A word of a script without spaces is two characters."""
    max_words: int | None = Field(None, ge=1)
    """Longer ones are too_long; unset: only the token limit counts."""
    allow_truncated: bool = False
    """Take captions that end at the token limit, as they are."""
    script: str | None = "LATIN"
    """Writing system that captions are in, or None for any: LATIN, CYRILLIC, CJK, ..."""
    max_other_script: float = Field(0.2, ge=0, le=1)
    """Share of letters of other scripts above which a caption is wrong_script: signs in a picture
    may be quoted."""
    max_repeats: int = Field(3, ge=2)
    """A phrase of two words or more that follows itself oftener is looping; also a sentence that
    stands oftener in one caption."""
    min_compressed: float = Field(0.22, ge=0, le=1)
    """zlib's size over the text's, below which a text of 400 bytes or more is looping."""
    refusals: tuple[str, ...] = (
        r"^(i'?m|i am|we'?re) (very |so |really |terribly )?(sorry|afraid|unable)\b",
        r"^(sorry|apologies|unfortunately)\b.{0,80}\b(can('?t|not)|unable|not able|no image)",
        r"\bas an? (ai|artificial intelligence|language model|large language model|text-based)\b",
        r"^i (can('?t|not)|am (not able|unable)|'m (not able|unable)|won'?t|do(n'?t| not))\b.{0,60}"
        r"\b(assist|help|describe|provide|identify|see|view|comply|generate|create|process|have)",
        r"\b(no|not?) (image|picture|photo)s? (was|is|has been|were) "
        r"(provided|attached|uploaded|included|visible to me)",
        r"\bplease (provide|upload|attach|share) (an?|the|your) (image|picture|photo)",
        r"\bi (can('?t|not)|am unable to|'m unable to) (see|view|access|open) "
        r"(the|this|any|your) (image|picture|photo)",
    )
    """Patterns of a model that talks of itself instead of the picture; case does not matter."""
    boilerplate: tuple[str, ...] = (
        r"does not (contain|include|have) any (imaginary|imagined|fictional) (content|elements?)",
        r"\b(the|this) (description|caption) (is|was) (based|generated|written|created)\b.{0,40}"
        r"\b(image|visible|instructions?|guidelines?|requirements?)",
        r"^(sure|certainly|of course|absolutely)\b[,!. ].{0,60}\b(here|description|caption)",
        r"^here('s| is| are)\b.{0,40}\b(description|caption)",
    )
    """Patterns of talk about the caption (the original Share-Captioner's "does not contain any
    imaginary content" among them); case does not matter."""

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.script is not None and self.script not in SCRIPTS:
            allowed = ", ".join(SCRIPTS)
            raise ConfigError(f"gate.script: found {self.script}, allowed {allowed}, or none")
        for pattern in (*self.refusals, *self.boilerplate):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"gate: {pattern!r} is no regular expression: {error}") from None
        return self

    def judge(self, text: str, finish_reason: str | None, prompt: str = "") -> str | None:
        """Why a text is no caption, or None if it is one.

        Args:
            finish_reason: What the engine ended with: stop, length, repetition.
            prompt: What was asked, to recognise it in the answer.
        """
        if not self.enabled:
            return None
        text = text.strip()
        if not text:
            return "empty"
        if finish_reason == "repetition" or self._loops(text):
            return "looping"
        return (
            _leak(text)
            or self._garbled(text)
            or self._script(text)
            or self._talks(text, prompt)
            or self._length(text, finish_reason)
        )

    def _loops(self, text: str) -> bool:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        if _repeated_run(words, self.max_repeats) or re.search(
            r"(\w)\1{7,}|([^\w\s])\2{11,}", text
        ):
            return True
        sentences = [s.strip() for s in re.split(r"[.!?\n\u3002]+", text.lower())]
        told = Counter(s for s in sentences if len(s.split()) >= 4)
        if told and max(told.values()) > self.max_repeats:
            return True
        data = text.encode()
        return len(data) >= 400 and len(zlib.compress(data, 9)) < self.min_compressed * len(data)

    def _garbled(self, text: str) -> str | None:
        letters = sum(char.isalpha() for char in text)
        visible = sum(not char.isspace() for char in text)
        bad = sum(char == "\ufffd" or unicodedata.category(char) in ("Cc", "Co", "Cn")
                  for char in text if char not in "\n\t\r")  # fmt: skip
        longest = max(map(len, re.split(r"[\s\-/\u2014\u3002\uff0c]+", text)))
        spaced = not any(char >= "\u2e80" for char in text)
        if bad or letters < 0.35 * visible or (spaced and longest > 100) or _MOJIBAKE.search(text):
            return "garbled"
        return None

    def _script(self, text: str) -> str | None:
        if self.script is None or (self.script == "LATIN" and text.isascii()):
            return None
        found = Counter(_script_of(char) for char in text if char.isalpha())
        other = sum(found.values()) - found[self.script]
        return "wrong_script" if other > self.max_other_script * sum(found.values()) else None

    def _talks(self, text: str, prompt: str) -> str | None:
        head = text[:300].replace("\u2019", "'")
        if any(re.search(pattern, head, re.IGNORECASE | re.DOTALL) for pattern in self.refusals):
            return "refusal"
        whole = text.replace("\u2019", "'")
        if any(re.search(p, whole, re.IGNORECASE | re.DOTALL) for p in self.boilerplate):
            return "boilerplate"
        asked = " ".join(prompt.lower().split())
        if len(asked.split()) >= 4 and asked in " ".join(text.lower().split()):
            return "prompt_echo"
        return None

    def _length(self, text: str, finish_reason: str | None) -> str | None:
        if finish_reason == "length" and not self.allow_truncated:
            return "truncated_caption"
        unspaced = sum(char >= "\u2e80" for char in text)
        count = len(text.split()) + unspaced // 2
        if count < self.min_words:
            return "too_short"
        if self.max_words is not None and count > self.max_words:
            return "too_long"
        return None


_MOJIBAKE = re.compile(
    r"(?:\u00c3[\u0080-\u00bf]|\u00e2\u20ac[\u0080-\u2122]|\u00c2[\u00a0-\u00bf])"
    r".*(?:\u00c3|\u00e2\u20ac|\u00c2)",
    re.DOTALL,
)
"""UTF-8 read as Latin-1, at two places or more."""

_LEAKS = re.compile(
    r"</?s>|<image>|<unk>|<pad>|<\|[a-z_]+\|>|\[/?INST\]|<<SYS>>"
    r"|\b(USER|ASSISTANT|Human|Assistant|GPT) ?:|^```|^\s*[\[{]\s*\"|</(div|p|span|html|body)>"
)


def _leak(text: str) -> str | None:
    """Marks of a chat template, code or markup: the model did not stop at its turn's end."""
    return "leaked_markup" if _LEAKS.search(text) else None


def _repeated_run(words: list[str], most: int) -> bool:
    """Whether some phrase of two to 24 words follows itself more than `most` times, or one word
    twice as often."""
    for size in range(1, 25):
        allowed = 2 * most if size == 1 else most
        same = 0
        for at in range(size, len(words)):
            same = same + 1 if words[at] == words[at - size] else 0
            if same >= size * allowed:
                return True
    return False


def _script_of(char: str) -> str:
    name = unicodedata.name(char, "").split(" ")[0].split("-")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "IDEOGRAPHIC") else name
