"""Loads the images of requests and decodes them in separate processes."""

import asyncio
import base64
import binascii
import hashlib
import re
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import unquote

import numpy as np
import numpy.typing as npt

from s4v_core.images.decoding import list_formats
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded, Framing, Refused
from serve.front.fetching import Fetcher
from serve.front.refusals import Refusal

_SENTENCES = {
    "not_an_image": "The bytes are no image of a known format.",
    "truncated": "The image ends too early.",
    "too_many_pixels": "The image has too many pixels.",
    "too_small": "The image is too small.",
    "file_too_big": "The image file is too big.",
}


_FROM_OTHER_FORMS = str.maketrans("-_", "+/", "\r\n\t")

_KINDS = {
    "HEIC": ((4, b"ftyphei"), (4, b"ftyphev"), (4, b"ftypmif"), (4, b"ftypmsf")),
    "AVIF": ((4, b"ftypavi"),),
    "JPEG XL": ((0, b"\xff\x0a"), (0, b"\x00\x00\x00\x0cJXL")),
    "JPEG 2000": ((0, b"\x00\x00\x00\x0cjP"), (0, b"\xff\x4f\xff\x51")),
    "PDF": ((0, b"%PDF"),),
    "PSD": ((0, b"8BPS"),),
    "SVG": ((0, b"<svg"), (0, b"<?xml")),
    "ICO": ((0, b"\x00\x00\x01\x00"),),
}
"""Formats that people send and that may not be taken -> position and bytes of their signatures."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")


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
    """Decode base64 text or a data: URL, in any of the forms that tools write: with line breaks,
    without padding, with the alphabet for URLs, or percent-encoded in a URL.

    Raises:
        Refusal: 400, the text is neither.
    """
    text = text.strip()
    if text[:5].lower() == "data:":
        head, comma, text = text.partition(",")
        if not comma or not head.rstrip().lower().endswith(";base64"):
            message = "A data: URL of an image is base64, as in data:image/jpeg;base64,AAAA."
            raise Refusal(400, "bad_data_url", message)
        text = unquote(text) if "%" in text else text
    # A space inside may be a plus sign that a form has lost, so it is not skipped.
    compact = text.strip().translate(_FROM_OTHER_FORMS).rstrip("=")
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
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
        url = url.strip()
        if url[:5].lower() == "data:":
            return await self.load_from_bytes(read_base64(url), framing)
        if not _URL.match(url):
            message = "The image is no URL; send its bytes as data:image/jpeg;base64,AAAA."
            raise Refusal(400, "bad_image_url", message)
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
            if reason == "format_denied":
                sentence = _name_formats(data, self._config)
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


def _name_formats(data: bytes, config: DecodeConfig) -> str:
    """Name the format of a file that is not taken, and those that are."""
    start = data[:64].lstrip()
    kinds = (
        kind
        for kind, signatures in _KINDS.items()
        if any(start[at:].startswith(signature) for at, signature in signatures)
    )
    taken = [name for name in list_formats() if config.tiff or name != "TIFF"]
    allowed = ", ".join(taken)
    return f"Images of this format ({next(kinds, 'unknown')}) are not taken; send one of {allowed}."
