"""Small pictures that a page holds in itself."""

import base64
import io

from PIL import Image

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded, Framing

_SIDE_PX = 224


def open_thumbnail_decoder() -> GuardedDecoder:
    """A decoder whose pictures have the size of thumbnails; the caller closes it."""
    return GuardedDecoder(DecodeConfig(), Framing("fit", _SIDE_PX))


def make_thumbnail(decoder: GuardedDecoder, image: object) -> str:
    """A picture as a data: URI; empty if it cannot be decoded, or is a reason instead of bytes."""
    decoded = decoder.decode(image) if isinstance(image, bytes) else None
    if not isinstance(decoded, Decoded):
        return ""
    size = (decoded.pixel_width, decoded.pixel_height)
    sink = io.BytesIO()
    Image.frombytes("RGB", size, decoded.pixels).save(sink, "JPEG", quality=75)
    return "data:image/jpeg;base64," + base64.b64encode(sink.getvalue()).decode()
