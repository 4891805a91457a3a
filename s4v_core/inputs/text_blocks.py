"""The text of a file in blocks, and its lines. Holds one block, or one line, at a time."""

import codecs
import io
from collections.abc import Iterator
from typing import BinaryIO, cast

from s4v_core.inputs.tar import Damage
from s4v_core.inputs.unpacking import Unpacked, name_compression

_BLOCK_BYTES = 1 << 20
_HEAD_BYTES = 8

MAX_RECORD_CHARS = 64 << 20
"""Longest record or line. A longer one is cut, so that a file without line ends costs no memory."""

_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}


class TextBlocks:
    """Iterates over the text of a file, with `\\n` as the only line end and without a BOM.

    A gzip file is unpacked, whatever its name.

    Args:
        errors: Python's way of decoding bytes that are not UTF-8; by default they become U+FFFD.
        keeps_all: Whether line ends and a BOM stay as they are, and all is UTF-8: with errors
            "surrogateescape" the text becomes the very same bytes again.

    Attributes:
        bytes_read: Number of bytes that were read and, if compressed, unpacked.
    """

    def __init__(self, file: BinaryIO, errors: str = "replace", keeps_all: bool = False) -> None:
        self._errors, self._keeps_all = errors, keeps_all
        head = file.read(_HEAD_BYTES)
        whole = _Rejoined(head, file)
        compression = name_compression(head)
        self._stream = Unpacked(cast(BinaryIO, whole), compression) if compression else whole
        self.bytes_read = 0

    def __iter__(self) -> Iterator[str]:
        block = self._read_block()
        encoding = next((name for mark, name in _MARKS.items() if block.startswith(mark)), "utf-8")
        # pandas and spreadsheets write a BOM, and PowerShell writes UTF-16.
        encoding = "utf-8" if self._keeps_all else encoding
        decoder = io.IncrementalNewlineDecoder(
            codecs.getincrementaldecoder(encoding)(self._errors), translate=not self._keeps_all
        )
        while block:
            yield decoder.decode(block)
            block = self._read_block()
        yield decoder.decode(b"", final=True)

    def find_damage(self) -> Damage | None:
        """Why a compressed file ended too early, once it has been read."""
        problem = self._stream.problem if isinstance(self._stream, Unpacked) else None
        return Damage(problem, self.bytes_read) if problem else None

    def _read_block(self) -> bytes:
        block = self._stream.read(_BLOCK_BYTES)
        self.bytes_read += len(block)
        return block


class _Rejoined:
    """A file whose first bytes were read already, and which may not be able to go back."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = head, file

    def read(self, size: int) -> bytes:
        head, self._head = self._head, b""
        return head + self._file.read(size - len(head))


def split_lines(blocks: Iterator[str]) -> Iterator[str]:
    """Yield the lines with their line ends; only the last line may have none."""
    rest: list[str] = []
    held = 0
    for block in blocks:
        start = 0
        while (end := block.find("\n", start)) >= 0:
            yield "".join([*rest, block[start : end + 1]]) if rest else block[start : end + 1]
            rest.clear()
            start, held = end + 1, 0
        if start < len(block):
            rest.append(block[start:])
            held += len(block) - start
        if held > MAX_RECORD_CHARS:
            yield "".join(rest) + "\n"
            rest.clear()
            held = 0
    if rest:
        yield "".join(rest)
