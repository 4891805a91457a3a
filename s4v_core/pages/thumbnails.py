"""Small pictures that a page holds in itself."""

import base64
import io

from PIL import Image

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded, Framing

_SIDE_PX = 224


def open_thumbnail_decoder(side_px: int = _SIDE_PX) -> GuardedDecoder:
    """A decoder whose pictures have the size of thumbnails, or another; the caller closes it."""
    return GuardedDecoder(DecodeConfig(), Framing("fit", side_px))


def make_thumbnail(decoder: GuardedDecoder, image: object) -> str:
    """A picture as a data: URI; empty if it cannot be decoded, or is a reason instead of bytes."""
    found = make_jpeg(decoder, image) if isinstance(image, bytes | str) else ""
    if isinstance(found, str):
        return ""
    return "data:image/jpeg;base64," + base64.b64encode(found).decode()


def make_jpeg(decoder: GuardedDecoder, image: bytes | str, quality: int = 75) -> bytes | str:
    """A picture as a JPEG of the decoder's size, or the reason why there is none.

    Args:
        image: An image as it is stored, or the reason why there is none.
    """
    decoded = decoder.decode(image) if isinstance(image, bytes) else image
    if isinstance(decoded, str):
        return decoded
    if not isinstance(decoded, Decoded):
        return decoded.reason
    size = (decoded.pixel_width, decoded.pixel_height)
    sink = io.BytesIO()
    Image.frombytes("RGB", size, decoded.pixels).save(sink, "JPEG", quality=quality)
    return sink.getvalue()
