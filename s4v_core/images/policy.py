"""What is decoded and how it is framed for a model. Values only."""

from dataclasses import dataclass
from typing import Literal

from s4v_core.config import Config


class DecodeConfig(Config):
    """Which images are let in. Limits are checked on the header, before a pixel is unpacked."""

    max_megapixels: float = 64.0
    """Most pixels of an image, in millions."""
    max_side_px: int = 32_768
    """Longest side."""
    min_side_px: int = 2
    """Shortest side; smaller ones have crashed engines."""
    max_file_mib: int = 64
    """Largest encoded file."""
    tiff: bool = True
    """Whether TIFF is decoded."""
    exif_orientation: bool = True
    """Whether an image is turned the way its EXIF tag says. The paper's loader did not."""
    reduced_jpeg: bool = True
    """Whether large JPEGs are unpacked at a reduced scale, at least twice the model's size."""
    deadline_s: float = 20.0
    """Longest time for one image."""


@dataclass(frozen=True, slots=True)
class Framing:
    """The picture that the model sees, done on CPU tasks so that pixels travel small.

    crop: shortest side to `size_px`, centre cut out (CLIP; the paper's pretraining).
    pad: on a square of the CLIP mean colour, then to `size_px` (the paper's SFT and demo).
    fit: longest side to at most `size_px`, never enlarged (models that choose their own size).
    """

    mode: Literal["crop", "pad", "fit"]
    size_px: int

    @property
    def most_bytes(self) -> int:
        """Of the largest picture: none is more than a square of RGB."""
        return 3 * self.size_px**2


@dataclass(frozen=True, slots=True)
class Decoded:
    """An RGB picture as the model sees it.

    Attributes:
        pixels: RGB bytes, rows from the top: uint8 of shape (pixel_height, pixel_width, 3).
        width, height: Of the image as a person sees it, before framing.
        flags: Decisions of the decoder, comma-separated (`exif:6`, `alpha`, `cmyk`, `16bit`,
            `animated:12`, `pages`).
    """

    pixels: bytes
    pixel_width: int
    pixel_height: int
    width: int
    height: int
    format: str
    flags: str


@dataclass(frozen=True, slots=True)
class Refused:
    """No picture, and the fixed word that says why.

    not_an_image, truncated, format_denied, too_many_pixels, too_small, file_too_big,
    decode_failed:<class>. Never the decoder's own text: it can hold memory addresses.
    """

    reason: str
