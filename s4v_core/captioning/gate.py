"""The quality gate: decides whether a text is a caption at all. Pure text rules, no engine.

A rule names what it found. It judges form, never taste: good captions of any style must pass.
"""

import json
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from typing import Self

from pydantic import Field, model_validator

from s4v_core.captioning.contradictions import find_contradiction
from s4v_core.config import Config
from s4v_core.errors import ConfigError

_SCRIPTS = ("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "THAI", "HANGUL", "CJK")
"""Writing systems, named as Unicode's character names begin; kana counts as CJK."""

RULES = (
    *("looping", "leaked_markup", "garbled", "wrong_script", "refusal", "boilerplate"),
    *("prompt_echo", "truncated_caption", "too_short", "too_long"),
)
"""The rules that may be skipped, by the reasons that they give, in the order in which they are
asked. An `empty` text is never a caption."""


class Gate(Config):
    """Rules about which texts are captions. They are part of a run's identity."""

    enabled: bool = True
    """Judge captions at all."""
    skip: tuple[str, ...] = ()
    """Rules that are not asked, by the reasons that they give: leaked_markup, too_short, ... May be
    repeated, or separated by commas."""
    allow_json: bool = False
    """Accept captions that are JSON, and captions in a code fence; otherwise both are
    leaked_markup."""
    min_words: int = Field(3, ge=0)
    """Captions with fewer words are too_short. In a script without spaces, two characters count as
    a word."""
    max_words: int | None = Field(None, ge=1)
    """Captions with more words are too_long. Default: only the token limit counts."""
    allow_truncated: bool = False
    """Accept captions that were cut off at the token limit."""
    script: str | None = "LATIN"
    """Writing system that captions must be in: LATIN, CYRILLIC, CJK, ...; None allows any."""
    max_other_script: float = Field(0.2, ge=0, le=1)
    """Largest share of letters from other scripts; above it a caption is wrong_script. More than 0,
    because captions may quote signs in the picture."""
    max_repeats: int = Field(3, ge=2)
    """A phrase of two or more words that is repeated back to back more than this many times is
    looping; so is a caption that contains the same sentence more often than this."""
    min_compressed: float = Field(0.22, ge=0, le=1)
    """Smallest ratio of a text's zlib-compressed size to its size; a text of 400 bytes or more
    below it is looping."""
    refuse_contradictions: bool = False
    """Reject captions that name what they also deny, such as a man and no people, as
    contradiction."""
    min_quality: float | None = None
    """Captions whose score is lower are low_quality. Needs --quality.model, whose help says what
    the scores are."""
    plugin: tuple[str, ...] = ()
    """Filter of your own, as MODULE:FUNCTION; called with the image and a caption that passed all
    other rules, it returns a reason to reject it, or None. May be repeated."""
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
    """Regular expressions for a model that talks about itself instead of the picture; case is
    ignored."""
    boilerplate: tuple[str, ...] = (
        r"does not (contain|include|have) any (imaginary|imagined|fictional) (content|elements?)",
        r"\b(the|this) (description|caption) (is|was) (based|generated|written|created)\b.{0,40}"
        r"\b(image|visible|instructions?|guidelines?|requirements?)",
        r"^(sure|certainly|of course|absolutely)\b[,!. ].{0,60}\b(here|description|caption)",
        r"^here('s| is| are)\b.{0,40}\b(description|caption)",
    )
    """Regular expressions for talk about the caption itself, such as the original Share-Captioner's
    "does not contain any imaginary content"; case is ignored."""

    @model_validator(mode="after")
    def _is_known(self) -> Self:
        if self.script is not None and self.script not in _SCRIPTS:
            allowed = ", ".join(_SCRIPTS)
            raise ConfigError(f"gate.script: found {self.script}, allowed {allowed}, or none")
        for rule in self.skipped:
            if rule not in RULES:
                raise ConfigError(f"gate.skip: found {rule!r}, allowed {', '.join(RULES)}")
        for pattern in (*self.refusals, *self.boilerplate):
            try:
                re.compile(pattern)
            except re.error as error:
                raise ConfigError(f"gate: {pattern!r} is no regular expression: {error}") from None
        return self

    def judge(self, text: str, finish_reason: str | None, prompt: str = "") -> str | None:
        """The reason why a text is no caption, or None if it is one.

        Args:
            finish_reason: Why the engine stopped: stop, length, repetition.
            prompt: The question, to recognise it in the answer.
        """
        if not self.enabled:
            return None
        skipped = self.skipped
        found = self._find_faults(text.strip(), finish_reason, prompt)
        return next((reason for reason in found if reason not in skipped), None)

    @property
    def skipped(self) -> set[str]:
        """The rules that are not asked."""
        names = (name.strip() for names in self.skip for name in names.split(","))
        return {name for name in names if name}

    def _find_faults(self, text: str, finish_reason: str | None, prompt: str) -> Iterator[str]:
        """The findings of all rules, in order; rules behind the one that counts are not asked."""
        if not text:
            yield "empty"
            return
        if finish_reason == "repetition" or self._is_looping(text):
            yield "looping"
        is_code = self.allow_json and _is_code(text)
        rules: tuple[Callable[[], str | None], ...] = (
            lambda: None if is_code else _find_leaked_markup(text),
            lambda: None if is_code else self._find_garbling(text),
            lambda: self._find_wrong_script(text),
            lambda: self._find_refusal(text),
            lambda: self._find_boilerplate(text),
            lambda: _find_echo(text, prompt),
            lambda: self._find_cut(finish_reason),
            lambda: self._find_wrong_length(text),
            lambda: self._find_contradiction(text),
        )
        for rule in rules:
            if reason := rule():
                yield reason

    def _find_contradiction(self, text: str) -> str | None:
        is_refused = self.refuse_contradictions and find_contradiction([text])
        return "contradiction" if is_refused else None

    def _is_looping(self, text: str) -> bool:
        words = re.findall(r"\w+|[^\w\s]", text.lower())
        if _has_repeated_run(words, self.max_repeats) or re.search(
            r"(\w)\1{7,}|([^\w\s])\2{11,}", text
        ):
            return True
        sentences = [s.strip() for s in re.split(r"[.!?\n\u3002]+", text.lower())]
        told = Counter(s for s in sentences if len(s.split()) >= 4)
        if told and max(told.values()) > self.max_repeats:
            return True
        data = text.encode()
        return len(data) >= 400 and len(zlib.compress(data, 9)) < self.min_compressed * len(data)

    def _find_garbling(self, text: str) -> str | None:
        letters = sum(char.isalpha() for char in text)
        visible = sum(not char.isspace() for char in text)
        bad = sum(char == "\ufffd" or unicodedata.category(char) in ("Cc", "Co", "Cn")
                  for char in text if char not in "\n\t\r")  # fmt: skip
        longest = max(map(len, re.split(r"[\s\-/\u2014\u3002\uff0c]+", text)))
        spaced = not any(char >= "\u2e80" for char in text)
        if bad or letters < 0.35 * visible or (spaced and longest > 100) or _MOJIBAKE.search(text):
            return "garbled"
        return None

    def _find_wrong_script(self, text: str) -> str | None:
        if self.script is None or (self.script == "LATIN" and text.isascii()):
            return None
        found = Counter(_find_script(char) for char in text if char.isalpha())
        other = sum(found.values()) - found[self.script]
        return "wrong_script" if other > self.max_other_script * sum(found.values()) else None

    def _find_refusal(self, text: str) -> str | None:
        return "refusal" if _matches(self.refusals, text[:300]) else None

    def _find_boilerplate(self, text: str) -> str | None:
        return "boilerplate" if _matches(self.boilerplate, text) else None

    def _find_cut(self, finish_reason: str | None) -> str | None:
        is_cut = finish_reason == "length" and not self.allow_truncated
        return "truncated_caption" if is_cut else None

    def _find_wrong_length(self, text: str) -> str | None:
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
"""UTF-8 that was decoded as Latin-1, in two or more places."""

_LEAKS = re.compile(
    r"</?s>|<image>|<unk>|<pad>|<\|[a-z_]+\|>|\[/?INST\]|<<SYS>>"
    r"|\b(USER|ASSISTANT|Human|Assistant|GPT) ?:|^```|^\s*[\[{]\s*\"|</(div|p|span|html|body)>"
)


def _matches(patterns: Sequence[str], text: str) -> bool:
    plain = text.replace("\u2019", "'")
    return any(re.search(pattern, plain, re.IGNORECASE | re.DOTALL) for pattern in patterns)


def _find_echo(text: str, prompt: str) -> str | None:
    asked = " ".join(prompt.lower().split())
    is_echo = len(asked.split()) >= 4 and asked in " ".join(text.lower().split())
    return "prompt_echo" if is_echo else None


def _is_code(text: str) -> bool:
    """Whether a text is one JSON value, or stands in a code fence."""
    if text.startswith("```"):
        return text.endswith("```") and len(text) > 6
    try:
        json.loads(text)
    except ValueError:
        return False
    return text[0] in "[{"


def _find_leaked_markup(text: str) -> str | None:
    """Find marks of a chat template, code or markup: the model did not stop at the end of its
    turn."""
    return "leaked_markup" if _LEAKS.search(text) else None


def _has_repeated_run(words: list[str], most: int) -> bool:
    """Whether a phrase of two to 24 words is repeated back to back more than `most` times, or one
    word more than twice as often."""
    for size in range(1, 25):
        allowed = 2 * most if size == 1 else most
        same = 0
        for at in range(size, len(words)):
            same = same + 1 if words[at] == words[at - size] else 0
            if same >= size * allowed:
                return True
    return False


def _find_script(char: str) -> str:
    name = unicodedata.name(char, "").split(" ")[0].split("-")[0]
    return "CJK" if name in ("HIRAGANA", "KATAKANA", "IDEOGRAPHIC") else name
