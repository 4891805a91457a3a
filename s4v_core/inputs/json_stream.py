"""Reads the values of a JSON array, of JSON Lines, or of JSON values one after the other.

Holds one value at a time. NaN and Infinity, which pandas and Python write, are numbers here, and
the content decides on the layout, not the ending of the file.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

from s4v_core.inputs.tar import Damage
from s4v_core.inputs.text_blocks import MAX_RECORD_CHARS, TextBlocks, split_lines

_DECODER = json.JSONDecoder(strict=False)  # a raw tab or line end in a caption harms nobody

_SPACE = " \t\n\r"
_BLANKS = _SPACE + "\ufeff"
"""Blanks at the start of a file: a byte order mark stands there if the text is kept as it is."""

_LONGEST_WORD = 16
"""An error this close to the end of the window may come from a word, number or escape that goes
on behind it."""

_MAX_LEADING_BAD_LINES = 1000


class BadRecord:
    """A line of JSON Lines that is no JSON."""


@dataclass(frozen=True, slots=True)
class Span:
    """A value and its text. All the texts of a whole file, joined, are the file.

    Attributes:
        before: Blanks, commas and brackets between the value before and this one.
        text: The value as it is written; empty for what follows the last value.
        value: The value; BadRecord for a line that is no JSON, None behind the last value.
    """

    before: str
    text: str
    value: Any


class NoJSONError(ValueError):
    """The text has nothing that is JSON."""


def read_values(blocks: TextBlocks, damages: list[Damage]) -> Iterator[Any]:
    """Yield the values of `read_spans` one by one, without their texts."""
    return (span.value for span in read_spans(blocks, damages) if span.text)


def read_spans(blocks: TextBlocks, damages: list[Damage]) -> Iterator[Span]:
    """Yield the values one by one, each with its text; BadRecord for a line that is none.

    The last span has no value: it is the text behind the values.

    Args:
        damages: Gets `cut_json` if the file ends inside of a value or of its array, and `bad_json`
            at a mistake in an array, behind which nothing is read.

    Raises:
        NoJSONError: It is no JSON.
    """
    text = iter(blocks)
    head = ""
    for block in text:
        head += block
        if len(head.strip(_BLANKS)) > 1:
            break
    first = head.lstrip(_BLANKS)
    if not first:
        yield Span(head, "", None)
        return
    everything = chain([head], text)
    if first[0] == "[" or first.split("\n", 1)[0].strip(_SPACE) == "{":
        yield from _Window(everything, blocks).read_spans(damages)
    else:
        yield from _read_lines(everything, blocks, damages)


def _read_lines(text: Iterator[str], blocks: TextBlocks, damages: list[Damage]) -> Iterator[Span]:
    leading: list[Span] = []
    is_json = False
    before = ""
    for line in split_lines(text):
        stripped = line.strip(_BLANKS)
        if not stripped:
            before += line
            continue
        indent, _, ending = line.partition(stripped)
        try:
            value = _DECODER.decode(stripped)
        except (ValueError, RecursionError):
            if is_json and not line.endswith("\n"):
                damages.append(Damage("cut_json", blocks.bytes_read))
                return
            bad = Span(before + indent, stripped, BadRecord())
            before = ending
            if is_json:
                yield bad
                continue
            leading.append(bad)
            if len(leading) == _MAX_LEADING_BAD_LINES:
                raise NoJSONError(_shorten(stripped)) from None
            continue
        if not is_json:
            yield from leading
            is_json = True
        yield Span(before + indent, stripped, value)
        before = ending
    if leading and not is_json:
        raise NoJSONError(_shorten(leading[-1].text))
    yield Span(before, "", None)


class _Window:
    """A part of a text that slides over it, and is decoded value by value."""

    def __init__(self, text: Iterator[str], blocks: TextBlocks) -> None:
        self._blocks_left, self._blocks = text, blocks
        self._window, self._at = "", 0
        self._skipped = self._text = ""
        self._is_ended = False

    def read_spans(self, damages: list[Damage]) -> Iterator[Span]:
        """Yield the values of arrays, and values outside of arrays, each with its text."""
        is_array = has_values = False
        before = ""
        while mark := self._skip_space(is_array):
            before += self._skipped
            if mark in "[]" and (mark == "]") == is_array:
                is_array, self._at = not is_array, self._at + 1
                has_values |= not is_array
                before += mark
            else:
                try:
                    value = self._decode()
                except (ValueError, RecursionError) as error:
                    if not has_values:
                        raise NoJSONError(str(error)) from None
                    kind = "cut_json" if self._is_ended and self._is_cut(error) else "bad_json"
                    damages.append(Damage(kind, self._find_offset()))
                    return
                has_values = True
                yield Span(before, self._text, value)
                before = ""
        yield Span(before + self._skipped, "", None)
        if is_array:
            damages.append(Damage("cut_json", self._blocks.bytes_read))

    def _skip_space(self, is_array: bool) -> str:
        """Move to the next value and return its first character; empty at the end."""
        skipped = _SPACE + "," if is_array else _BLANKS
        self._skipped = ""
        while True:
            start = self._at
            while self._at < len(self._window) and self._window[self._at] in skipped:
                self._at += 1
            self._skipped += self._window[start : self._at]
            if self._at < len(self._window):
                return self._window[self._at]
            if not self._read_more():
                return ""

    def _decode(self) -> Any:
        """Decode the value at the current position and move behind it.

        Raises:
            ValueError: It is no JSON, or the text ends too early.
        """
        while True:
            try:
                value, end = _DECODER.raw_decode(self._window, self._at)
            except json.JSONDecodeError as error:
                if not self._is_cut(error) or not self._read_more():
                    raise
                continue
            # A number at the end of the window, such as `1.` or `1e+`, may go on behind it.
            length = end - self._at
            if end + _LONGEST_WORD < len(self._window) or not self._read_more():
                self._text = self._window[self._at : self._at + length]
                self._at += length
                return value

    def _is_cut(self, error: Exception) -> bool:
        """Whether the text that follows the window may make the error disappear."""
        if not isinstance(error, json.JSONDecodeError):
            return False
        is_near_end = error.pos >= len(self._window) - _LONGEST_WORD
        return is_near_end or error.msg.startswith("Unterminated string")

    def _read_more(self) -> bool:
        """Add text to the window, as much as it has, and drop what was decoded."""
        self._window, self._at = self._window[self._at :], 0
        if len(self._window) > MAX_RECORD_CHARS:
            return False
        parts = [self._window]
        wanted, found = max(len(self._window), 1), 0
        for block in self._blocks_left:
            parts.append(block)
            found += len(block)
            if found >= wanted:
                break
        else:
            self._is_ended = True
        self._window = "".join(parts)
        return found > 0

    def _find_offset(self) -> int:
        return self._blocks.bytes_read - len(self._window[self._at :].encode("utf-8", "replace"))


def _shorten(line: str) -> str:
    return f"found {line[:60]!r}"
