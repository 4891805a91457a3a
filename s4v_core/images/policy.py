"""Settings and results of decoding: which images are accepted, and how they are framed."""

from dataclasses import dataclass
from typing import Literal

from s4v_core.config import Config


class DecodeConfig(Config):
    """Limits for images. They are checked on the header, before any pixel is unpacked."""

    max_megapixels: float = 64.0
    """Largest number of pixels of an image, in millions."""
    max_side_px: int = 32_768
    """Largest allowed side of an image, in pixels."""
    min_side_px: int = 2
    """Smallest allowed side, in pixels; smaller images have crashed engines."""
    max_file_mib: int = 64
    """Largest encoded file, in MiB."""
    tiff: bool = True
    """Whether TIFF files are decoded."""
    exif_orientation: bool = True
    """Whether an image is rotated as its EXIF tag says. The paper's loader did not do so."""
    reduced_jpeg: bool = True
    """Whether large JPEGs are unpacked at a reduced scale of at least twice the model's size."""
    deadline_s: float = 20.0
    """Longest time to decode one image, in seconds."""


@dataclass(frozen=True, slots=True)
class Framing:
    """How an image becomes the picture that the model sees. CPU tasks do it, so that few pixels
    travel.

    Modes:
        crop: Scale the shortest side to `size_px` and cut out the centre (CLIP; the paper's
            pretraining).
        pad: Extend to a square with the CLIP mean colour and scale that to `size_px` (the paper's
            SFT and demo).
        fit: Scale the longest side down to at most `size_px`, and the shortest to at most
            `short_px` if there is one.
        area: Scale an image of more than `size_px` squared pixels down to that many (models that
            choose their own size, and get the image itself).
    """

    mode: Literal["crop", "pad", "fit", "area"]
    size_px: int
    short_px: int | None = None

    @property
    def max_bytes(self) -> int:
        """Upper bound of a picture's bytes: RGB with sides of `size_px`, or one of `short_px`."""
        return 3 * self.size_px * (self.short_px or self.size_px)

    @property
    def description(self) -> str:
        """The framing in the settings of a run."""
        short = f" {self.short_px}" if self.short_px else ""
        return f"{self.mode} {self.size_px}{short}"


@dataclass(frozen=True, slots=True)
class Decoded:
    """An RGB picture as the model sees it.

    Attributes:
        pixels: RGB bytes, rows from the top: uint8 of shape (pixel_height, pixel_width, 3).
        pixel_width, pixel_height: Size of the picture.
        width, height: Size of the image as a person sees it, before framing.
        format: Pillow's name of the file format.
        flags: What the decoder did, comma-separated (`exif:6`, `alpha`, `cmyk`, `16bit`,
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
    """The reason why there is no picture, as a fixed word.

    Reasons: not_an_image, truncated, format_denied, too_many_pixels, too_small, file_too_big,
    decode_failed:<class>. Never the decoder's own text, which can contain memory addresses.
    """

    reason: str
