"""Opens images to tell those that cannot be decoded, and what their pixels or names hide."""

import threading
from collections import Counter
from collections.abc import Sequence

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.shard_index import Row

_SIDE_PX = 336
_MAX_BYTES = 64 << 20

_FORMATS = {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP", "gif": "GIF", "bmp": "BMP"}
"""Format that an ending promises."""


class PixelCheck:
    """Decodes images in child processes, one for each thread that asks."""

    def __init__(self) -> None:
        self._local = threading.local()
        self._decoders: list[GuardedDecoder] = []
        self._lock = threading.Lock()

    def check(self, rows: Sequence[Row]) -> tuple[list[str | None], Counter[str]]:
        """The reason of each image that cannot be decoded, None for the others; and how many have
        properties that surprise: `other_format`, `exif_orientation`, `alpha`."""
        decoder = self._get_decoder()
        reasons: list[str | None] = []
        flags: Counter[str] = Counter()
        for row, image in zip(rows, read_images(rows, _MAX_BYTES), strict=True):
            decoded = Refused(image) if isinstance(image, str) else decoder.decode(image)
            if isinstance(decoded, Refused):
                reasons.append(decoded.reason)
                continue
            reasons.append(None)
            flags.update(_list_surprises(row, decoded.format, decoded.flags))
        return reasons, flags

    def close(self) -> None:
        """End the child processes."""
        for decoder in self._decoders:
            decoder.close()

    def _get_decoder(self) -> GuardedDecoder:
        decoder: GuardedDecoder | None = getattr(self._local, "decoder", None)
        if decoder is None:
            decoder = GuardedDecoder(DecodeConfig(), Framing("fit", _SIDE_PX))
            self._local.decoder = decoder
            with self._lock:
                self._decoders.append(decoder)
        return decoder


def _list_surprises(row: Row, found: str, flags: str) -> list[str]:
    ending = (row["member"] or row["uri"]).rpartition(".")[2].lower()
    surprises = []
    if _FORMATS.get(ending, found) != found:
        surprises.append("other_format")
    if "exif:" in flags:
        surprises.append("exif_orientation")
    if "alpha" in flags.split(","):
        surprises.append("alpha")
    return surprises
