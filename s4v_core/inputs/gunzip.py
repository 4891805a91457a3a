"""A gzip file as a forward-only stream that returns every byte before a damage.

The standard library's reader raises at a cut and withholds the bytes that it had already unpacked.
"""

import zlib
from typing import BinaryIO

_CHUNK_BYTES = 1 << 20
_MAX_EXPANSION = 1000
"""A stream that unpacks to more than this many times its packed size is refused as a bomb."""


class Gunzip:
    """Reads and seeks forwards in unpacked bytes.

    Attributes:
        problem: Reason why the stream ended before its trailer (`cut_gzip`, `gzip_bomb`), or None.
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
        """Return `size` unpacked bytes, or fewer at the end."""
        while len(self._buffer) < size and not self._ended:
            self._buffer += self._unpack_more()
        part, self._buffer = self._buffer[:size], self._buffer[size:]
        self._at += len(part)
        return part

    def seek(self, offset: int) -> None:
        """Move to `offset`, which must not be before the current position."""
        assert offset >= self._at, f"Gunzip goes forwards only: {offset} < {self._at}"
        while self._at < offset and self.read(min(offset - self._at, _CHUNK_BYTES)):
            pass

    def measure_length(self) -> int:
        """Read the stream to its end and return its length in unpacked bytes."""
        while self.read(_CHUNK_BYTES):
            pass
        return self._at

    def _unpack_more(self) -> bytes:
        packed = self._unpacker.unconsumed_tail or self._next_packed()
        if not packed:
            self._finish(None if self._unpacker.eof else "cut_gzip")
            return b""
        try:
            part = self._unpacker.decompress(packed, _CHUNK_BYTES)
        except zlib.error:
            self._finish("cut_gzip")
            return b""
        self._unpacked += len(part)
        if self._unpacked > _MAX_EXPANSION * max(self._packed, 1 << 16):
            self._finish("gzip_bomb")
        return part

    def _next_packed(self) -> bytes:
        if self._unpacker.eof:
            rest = self._unpacker.unused_data or self._read_packed()
            if not rest.startswith(b"\x1f\x8b"):  # padding after the last member
                return b""
            self._unpacker = zlib.decompressobj(wbits=31)
            return rest
        return self._read_packed()

    def _read_packed(self) -> bytes:
        packed = self.file.read(_CHUNK_BYTES)
        self._packed += len(packed)
        return packed

    def _finish(self, problem: str | None) -> None:
        self._ended, self.problem = True, problem
