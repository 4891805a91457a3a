"""Loads the images of requests and decodes them in separate processes."""

import asyncio
import base64
import binascii
import hashlib
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded, Framing, Refused
from serve.front.fetching import Fetcher
from serve.front.refusals import Refusal

_SENTENCES = {
    "not_an_image": "The bytes are no image of a known format.",
    "truncated": "The image ends too early.",
    "format_denied": "Images of this format are not taken.",
    "too_many_pixels": "The image has too many pixels.",
    "too_small": "The image is too small.",
    "file_too_big": "The image file is too big.",
}


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image.

    Attributes:
        pixels: uint8 RGB of shape (height, width, 3), as the model sees them.
        decoded: The decoder's result: original size, format and flags.
        sha256: SHA-256 of the file, in hex.
        decode_ms: Milliseconds that decoding took, including the wait for a free decoder.
    """

    pixels: npt.NDArray[np.uint8]
    decoded: Decoded
    sha256: str
    decode_ms: float


def read_base64(text: str) -> bytes:
    """Decode base64 text or a data: URL.

    Raises:
        Refusal: 400, the text is neither.
    """
    head, comma, body = text.partition(",")
    if text[:5].lower() == "data:":
        if not comma or not head.lower().endswith(";base64"):
            raise Refusal(400, "bad_data_url", "A data: URL of an image is base64.")
        text = body
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise Refusal(400, "bad_base64", "The image is no valid base64.") from None


class PictureLoader:
    """The decoders of one ingress replica. To be used by one event loop."""

    def __init__(self, config: DecodeConfig, decoders: int, fetcher: Fetcher) -> None:
        self._config, self._fetcher = config, fetcher
        self._threads = ThreadPoolExecutor(decoders, thread_name_prefix="decoder")
        self._idle: dict[Framing, list[GuardedDecoder]] = {}

    async def load_from_url(self, url: str, framing: Framing) -> Picture:
        """Load an image from a data: URL or another URL.

        Raises:
            Refusal: The URL is not allowed or cannot be fetched, or the image is not accepted.
        """
        if url[:5].lower() == "data:":
            return await self.load_from_bytes(read_base64(url), framing)
        return await self.load_from_bytes(await self._fetcher.fetch(url), framing)

    async def load_from_bytes(self, data: bytes, framing: Framing) -> Picture:
        """Decode an image file.

        Raises:
            Refusal: 422, the image is not accepted; `code` is the reason that a batch pass gives.
        """
        started = time.monotonic()
        loop = asyncio.get_running_loop()
        found = await loop.run_in_executor(self._threads, self._decode, data, framing)
        if isinstance(found, Refused):
            reason = found.reason.split(":")[0]
            sentence = _SENTENCES.get(reason, "The image cannot be decoded.")
            raise Refusal(422, found.reason, sentence)
        shape = (found.pixel_height, found.pixel_width, 3)
        pixels = np.frombuffer(found.pixels, np.uint8).reshape(shape)
        sha256 = hashlib.sha256(data).hexdigest()
        return Picture(pixels, found, sha256, 1000 * (time.monotonic() - started))

    def _decode(self, data: bytes, framing: Framing) -> Decoded | Refused:
        # list.pop and list.append are atomic, so each decoder is used by one thread at a time.
        idle = self._idle.setdefault(framing, [])
        try:
            decoder = idle.pop()
        except IndexError:
            decoder = GuardedDecoder(self._config, framing)
        try:
            return decoder.decode(data)
        finally:
            idle.append(decoder)
