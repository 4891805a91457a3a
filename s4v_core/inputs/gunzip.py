"""A gzip file as a forward-only stream that gives out every byte before a damage.

The standard library's reader raises at a cut and keeps the bytes it had already unpacked.
"""

import zlib
from typing import BinaryIO

CHUNK = 1 << 20
MAX_EXPANSION = 1000
"""A stream that unpacks to more than this many times its packed size is a bomb."""


class Gunzip:
    """Reads and seeks forwards in unpacked bytes.

    Attributes:
        problem: What ended the stream before its trailer (`cut_gzip`, `gzip_bomb`), or None so far.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.problem: str | None = None
        self._unpacker = zlib.decompressobj(wbits=31)
        self._buffer = b""
        self._at = 0
        self._packed = self._unpacked = 0
        self._ended = False

    def read(self, size: int) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        while len(self._buffer) < size and not self._ended:
            self._buffer += self._more()
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        self._at += len(part)
        return part

    def seek(self, offset: int) -> None:
        """Go to `offset`, which must not lie behind."""
        assert offset >= self._at, f"Gunzip goes forwards only: {offset} < {self._at}"
        while self._at < offset and self.read(min(offset - self._at, CHUNK)):
            pass

    def length(self) -> int:
        """Bytes of the whole stream; reads it to its end."""
        while self.read(CHUNK):
            pass
        return self._at

    def _more(self) -> bytes:
        packed = self._unpacker.unconsumed_tail or self._next_packed()
        if not packed:
            self._end(None if self._unpacker.eof else "cut_gzip")
            return b""
        try:
            part = self._unpacker.decompress(packed, CHUNK)
        except zlib.error:
            self._end("cut_gzip")
            return b""
        self._unpacked += len(part)
        if self._unpacked > MAX_EXPANSION * max(self._packed, 1 << 16):
            self._end("gzip_bomb")
        return part

    def _next_packed(self) -> bytes:
        if self._unpacker.eof:
            rest = self._unpacker.unused_data or self._fetch()
            if not rest.startswith(b"\x1f\x8b"):  # padding behind the last member
                return b""
            self._unpacker = zlib.decompressobj(wbits=31)
            return rest
        return self._fetch()

    def _fetch(self) -> bytes:
        packed = self.file.read(CHUNK)
        self._packed += len(packed)
        return packed

    def _end(self, problem: str | None) -> None:
        self._ended, self.problem = True, problem
