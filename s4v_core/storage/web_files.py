"""Files of a web server as a store has them: parts of them, and a file that can be read by seeking.

A server may ignore `Range` and send the whole file. It is then read from its start to the wanted
part, so that shards on such a server can be read as well, at the price of time.
"""

import io
import os
from typing import Any

import aiohttp

from s4v_core.storage.access import call_store, run_async
from s4v_core.storage.reasons import PlaceError, SourceChangedError

_SILENCE_S = 30.0
"""Longest wait for a connection, and for the next bytes of an answer."""

_LONGEST_SKIP_S = 3600.0
"""Time limit in seconds of a read from a server without ranges, which sends what comes before."""

_CHUNK_BYTES = 1 << 20
_PATIENT = aiohttp.ClientTimeout(total=None, sock_connect=_SILENCE_S, sock_read=_SILENCE_S)


async def get_body(
    fs: Any, url: str, part: tuple[int, int] | None, etag: str | None, max_bytes: int | None
) -> bytes:
    """The body of a URL, or a part of it (offset and length), in one request.

    Args:
        etag: The answer must have this tag, if it has any.
        max_bytes: A longer body is refused.

    Raises:
        FileNotFoundError: There is no such file.
        PlaceError: It has changed, or is too long.
    """
    answer = await _get(fs, url, part)
    async with answer:
        found = answer.headers.get("ETag", "").strip('"')
        if etag and found and found != etag:
            raise SourceChangedError(url, "changed since it was indexed")
        if part is None:
            return await _read_limited(answer, url, max_bytes)
        if answer.status == 200:
            await _skip(answer, part[0])
        return await _read_exactly(answer, part[1])


async def _get(fs: Any, url: str, part: tuple[int, int] | None) -> Any:
    session = await fs.set_session()
    headers = {**fs.kwargs.get("headers", {}), "Accept-Encoding": "identity"}
    if part is not None:
        headers["Range"] = f"bytes={part[0]}-{part[0] + part[1] - 1}"
    options = {**fs.kwargs, "headers": headers, "timeout": _PATIENT}
    answer = await session.get(fs.encode_url(url), **options)
    try:
        fs._raise_not_found_for_status(answer, url)
    except (FileNotFoundError, aiohttp.ClientError):
        answer.close()
        raise
    return answer


async def _read_limited(answer: Any, url: str, max_bytes: int | None) -> bytes:
    if max_bytes is None:
        return bytes(await answer.read())
    if (answer.content_length or 0) > max_bytes:
        raise PlaceError(url, f"found {answer.content_length}, allowed {max_bytes}", "file_too_big")
    data = await _read_exactly(answer, max_bytes + 1)
    if len(data) > max_bytes:
        raise PlaceError(url, f"found more than {max_bytes} bytes", "file_too_big")
    return data


async def _read_exactly(answer: Any, length: int) -> bytes:
    """The next `length` bytes of a body, or fewer at its end."""
    data = bytearray()
    while len(data) < length and (chunk := await answer.content.read(length - len(data))):
        data += chunk
    return bytes(data)


async def _skip(answer: Any, length: int) -> None:
    while length and (chunk := await answer.content.read(min(length, _CHUNK_BYTES))):
        length -= len(chunk)


class WebFile(io.RawIOBase):
    """A file of a web server that is read in blocks of `block` bytes.

    With ranges, each block is a request. Without, one answer is read on as long as reads go
    forwards, and a read backwards starts a new answer.
    """

    def __init__(self, uri: str, fs: Any, url: str, block: int) -> None:
        self._uri, self._fs, self._url, self._block = uri, fs, url, block
        self._at = 0
        self._data, self._start = b"", 0
        self._stream: Any = None
        self._stream_at = 0
        # The first block tells the length, and whether the server knows ranges.
        self._length = self._call(self._open)

    def readinto(self, buffer: Any, /) -> int:
        if not self._start <= self._at < self._start + len(self._data):
            wanted = min(max(len(buffer), self._block), self._length - self._at)
            if wanted <= 0:
                return 0
            self._data = self._call(self._fetch, self._at, wanted)
            self._start = self._at
        part = self._data[self._at - self._start :][: len(buffer)]
        buffer[: len(part)] = part
        self._at += len(part)
        return len(part)

    def seek(self, offset: int, whence: int = os.SEEK_SET, /) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._length}[whence]
        self._at = max(base + offset, 0)
        return self._at

    def tell(self) -> int:
        return self._at

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def close(self) -> None:
        if not self.closed and self._stream is not None:
            self._fs.loop.call_soon_threadsafe(self._stream.close)
        super().close()

    def _call(self, function: Any, *args: Any) -> Any:
        def attempt() -> Any:
            return run_async(self._fs, function, *args, limit_s=_LONGEST_SKIP_S)

        return call_store(self._uri, attempt)

    async def _open(self) -> int:
        """Read the first block, and return the length of the file."""
        answer = await _get(self._fs, self._url, (0, self._block))
        if answer.status == 206:
            async with answer:
                self._data = await _read_exactly(answer, self._block)
            return int(answer.headers["Content-Range"].rpartition("/")[2])
        if answer.content_length is not None:
            self._stream, self._stream_at = answer, 0
            return int(answer.content_length)
        async with answer:  # a page made on the fly tells its length only by its end
            self._data = bytes(await answer.read())
        return len(self._data)

    async def _fetch(self, start: int, length: int) -> bytes:
        if self._stream is None:
            return await get_body(self._fs, self._url, (start, length), None, None)
        stream, at = self._stream, self._stream_at
        self._stream_at = -1  # unknown, until this read has succeeded
        if not 0 <= at <= start:
            stream.close()
            stream, at = await _get(self._fs, self._url, None), 0
            self._stream = stream
        await _skip(stream, start - at)
        data = await _read_exactly(stream, length)
        self._stream_at = start + len(data)
        return data
