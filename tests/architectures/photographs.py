"""Twelve photographs of various sizes: drawn here, and some real ones where the data folder lies
next to the repository."""

import hashlib
import io
import json
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded, Framing
from tests.conftest import SHARED_DATA

SIZES = (
    (640, 480), (480, 640), (336, 336), (1024, 1024), (2400, 1600), (1600, 2400), (900, 300),
    (300, 1100), (1999, 1333), (64, 48), (2048, 512), (777, 555),
)  # fmt: skip
"""(width, height) in pixels."""

_REAL = 4
"""Real photographs that take the place of as many drawn ones."""


def draw_photograph(number: int, size: tuple[int, int]) -> bytes:
    """A JPEG with a sky, a ground, shapes and grain, all drawn from the number."""
    dice = np.random.default_rng(number)
    width, height = size
    sky, ground = dice.integers(0, 256, (2, 3))
    slope = np.linspace(0, 1, height)[:, None, None]
    ramp = sky * (1 - slope) + ground * slope
    pixels = np.broadcast_to(ramp, (height, width, 3)) + dice.normal(0, 12, (height, width, 1))
    image = Image.fromarray(pixels.clip(0, 255).astype(np.uint8))
    pen = ImageDraw.Draw(image)
    for _ in range(int(dice.integers(4, 12))):
        left, right = sorted(dice.integers(0, width, 2).tolist())
        top, bottom = sorted(dice.integers(0, height, 2).tolist())
        colour = tuple(dice.integers(0, 256, 3).tolist())
        draw = pen.ellipse if dice.random() < 0.5 else pen.rectangle
        draw((left, top, right + 1, bottom + 1), fill=colour)
    file = io.BytesIO()
    image.filter(ImageFilter.GaussianBlur(1)).save(file, "JPEG", quality=90)
    return file.getvalue()


def list_photographs() -> dict[str, bytes]:
    """Twelve files by name: eight drawn and four real ones, or twelve drawn ones."""
    real = sorted((SHARED_DATA / "photos").glob("*.jpg"))[:: 286 // _REAL][:_REAL]
    drawn = SIZES[: len(SIZES) - len(real)]
    files = {
        f"drawn_{number:02d}.jpg": draw_photograph(number, size)
        for number, size in enumerate(drawn)
    }
    return files | {f"real_{number}.jpg": path.read_bytes() for number, path in enumerate(real)}


def save_pictures(files: dict[str, bytes], framing: Framing, folder: Path) -> str:
    """Decode each file as a pass does for this framing, and save the picture as a PNG.

    Returns:
        A digest of all pictures.
    """
    folder.mkdir(parents=True)
    digest = hashlib.sha256()
    decoder = GuardedDecoder(DecodeConfig(), framing)
    try:
        for name, data in files.items():
            found = decoder.decode(data)
            assert isinstance(found, Decoded), f"{name}: {found.reason}"
            size = (found.pixel_width, found.pixel_height)
            image = Image.frombytes("RGB", size, found.pixels)
            image.save(folder / Path(name).with_suffix(".png"), compress_level=1)
            digest.update(json.dumps([name, size]).encode() + found.pixels)
    finally:
        decoder.close()
    return digest.hexdigest()
