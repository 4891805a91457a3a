"""Pictures that show their number, also after they were encoded again or resized."""

import io

import numpy as np
from PIL import Image

_BITS = 8
_BLOCK = 16


def draw_picture(number: int, kind: str = "JPEG") -> bytes:
    """Draw a picture: its number in black and white blocks above a landscape of its own."""
    chance = np.random.default_rng(number)
    landscape = Image.fromarray(chance.integers(0, 255, (3, 8, 3), dtype=np.uint8))
    width = _BITS * _BLOCK
    picture = Image.new("RGB", (width, 3 * _BLOCK))
    for bit in range(_BITS):
        if number >> bit & 1:
            picture.paste((255, 255, 255), (bit * _BLOCK, 0, (bit + 1) * _BLOCK, _BLOCK))
    picture.paste(landscape.resize((width, 2 * _BLOCK), Image.Resampling.BICUBIC), (0, _BLOCK))
    sink = io.BytesIO()
    picture.save(sink, kind)
    return sink.getvalue()


def read_number(content: bytes) -> int:
    """Read the number off a picture."""
    picture = np.asarray(Image.open(io.BytesIO(content)).convert("L"), dtype=float)
    row = picture[picture.shape[0] // 6]
    blocks = np.array_split(row, _BITS)
    return sum(1 << bit for bit, block in enumerate(blocks) if block.mean() > 127)
