"""A compressed file as a forward-only stream that returns every byte before a damage.

The standard library's readers raise at a cut and withhold the bytes that they had already unpacked.
"""

import bz2
import io
import lzma
import zlib
from collections.abc import Callable, Iterator
from typing import Any, BinaryIO

import pyarrow as pa

_CHUNK_BYTES = 1 << 20
_MAX_EXPANSION = 1000
"""A stream that unpacks to more than this many times its packed size is refused as a bomb."""

_SIGNATURES = {
    "gzip": b"\x1f\x8b",
    "bz2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd",
}


def name_compression(start: bytes) -> str | None:
    """The compression of a file that starts with these bytes: gzip, bz2, xz or zstd."""
    return next((name for name, mark in _SIGNATURES.items() if start.startswith(mark)), None)


class Unpacked:
    """Reads and seeks forwards in unpacked bytes.

    Attributes:
        problem: Reason why the stream ended before its end mark (`cut_gzip`, `gzip_bomb`, and the
            same for other compressions), or None.
    """

    def __init__(self, file: BinaryIO, compression: str) -> None:
        self.problem: str | None = None
        self._compression = compression
        self._source = _CountedFile(file)
        self._parts = _UNPACKERS[compression](self._source)
        self._buffer = b""
        self._at = self._unpacked = 0
        self._ended = False

    def read(self, size: int) -> bytes:
        """Return `size` unpacked bytes, or fewer at the end."""
        parts, held = [self._buffer], len(self._buffer)
        while held < size and not self._ended:
            parts.append(self._unpack_more())
            held += len(parts[-1])
        whole = b"".join(parts)
        part, self._buffer = whole[:size], whole[size:]
        self._at += len(part)
        return part

    def seek(self, offset: int) -> None:
        """Move to `offset`, which must not be before the current position."""
        assert offset >= self._at, f"Unpacked goes forwards only: {offset} < {self._at}"
        while self._at < offset and self.read(min(offset - self._at, _CHUNK_BYTES)):
            pass

    def measure_length(self) -> int:
        """Read the stream to its end and return its length in unpacked bytes."""
        while self.read(_CHUNK_BYTES):
            pass
        return self._at

    def _unpack_more(self) -> bytes:
        try:
            part = next(self._parts, None)
        # A stream that ends too early is an EOFError; Arrow and bz2 raise OSError for damages.
        except (zlib.error, lzma.LZMAError, EOFError, OSError):
            self._finish(f"cut_{self._compression}")
            return b""
        if part is None:
            self._finish(None)
            return b""
        self._unpacked += len(part)
        if self._unpacked > _MAX_EXPANSION * max(self._source.packed, 1 << 16):
            self._finish(f"{self._compression}_bomb")
        return part

    def _finish(self, problem: str | None) -> None:
        self._ended, self.problem = True, problem


class _CountedFile(io.RawIOBase):
    """A file that counts the bytes that were read from it."""

    def __init__(self, file: BinaryIO) -> None:
        self.packed = 0
        self._file = file

    def readable(self) -> bool:
        return True

    def read(self, size: int = _CHUNK_BYTES, /) -> bytes:
        data = self._file.read(size)
        self.packed += len(data)
        return data


def _unpack_streams(
    file: _CountedFile, make: Callable[[], Any], signature: bytes
) -> Iterator[bytes]:
    """Unpack a file of one or more compressed streams, and padding behind the last one."""
    packed = _fill(file, b"", len(signature))
    while packed.startswith(signature):
        unpacker = make()
        while not unpacker.eof:
            part = unpacker.decompress(packed, _CHUNK_BYTES)
            yield part
            # zlib gives back what it did not take; the others keep it until they need more.
            packed = getattr(unpacker, "unconsumed_tail", b"")
            if not packed and not unpacker.eof and getattr(unpacker, "needs_input", True):
                packed = file.read()
                if not packed and len(part) < _CHUNK_BYTES:
                    raise EOFError
        packed = _fill(file, unpacker.unused_data, len(signature))
    if packed.strip(b"\0"):  # neither a further stream nor padding
        raise EOFError


def _fill(file: _CountedFile, data: bytes, size: int) -> bytes:
    """`data` and what follows it in the file: `size` bytes, unless the file ends before."""
    while len(data) < size and (more := file.read()):
        data += more
    return data


def _unpack_zstd(file: _CountedFile) -> Iterator[bytes]:
    stream = pa.CompressedInputStream(pa.PythonFile(file, mode="r"), "zstd")
    while part := stream.read(_CHUNK_BYTES // 16):
        yield part


_UNPACKERS: dict[str, Callable[[_CountedFile], Iterator[bytes]]] = {
    "gzip": lambda file: _unpack_streams(
        file, lambda: zlib.decompressobj(wbits=31), _SIGNATURES["gzip"]
    ),
    "bz2": lambda file: _unpack_streams(file, bz2.BZ2Decompressor, _SIGNATURES["bz2"]),
    "xz": lambda file: _unpack_streams(file, lzma.LZMADecompressor, _SIGNATURES["xz"]),
    "zstd": _unpack_zstd,
}
