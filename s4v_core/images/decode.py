"""Encoded bytes -> RGB picture, or a named reason. Runs inside the guarded child (`guard.py`).

Needs Pillow and nothing else. Never sets LOAD_TRUNCATED_IMAGES: its grey filler would be captioned.
"""

import io
import warnings

from PIL import Image, ImageOps, UnidentifiedImageError

from s4v_core.images.policy import DecodeConfig, Decoded, Framing, Refused

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""None of Pillow's CVEs of recent years sits in the first three; the default
open reaches all. MPO comes in as JPEG."""

PAD_COLOUR = (122, 116, 104)
"""int(255 * mean) of CLIP, the border of the paper's SFT (share4v expand2square)."""

MAX_PAD_CANVAS_PX = 4096
"""Beyond this side the border is added after the resize: a square of 32,768 would be 4 GB."""

_ORIENTATION = 0x0112

# First bytes of formats that exist but are not decoded here, so that the reason can say so.
_DENIED = (
    (0, b"8BPS"),
    (0, b"\x00\x00\x00\x0cjP"),
    (0, b"\xff\x4f\xff\x51"),
    (4, b"ftypavi"),
    (4, b"ftyphei"),
    (4, b"ftypmif"),
    (0, b"\x00\x00\x01\x00"),
    (0, b"%PDF"),
    (0, b"%!PS"),
    (0, b"\xc5\xd0\xd3\xc6"),
    (0, b"SIMPLE  ="),
    (0, b"\x01\xda"),
    (4, b"\x11\xaf"),
    (4, b"\x12\xaf"),
    (0, b"DDS "),
    (0, b"gimp xcf"),
    (0, b"\x76\x2f\x31\x01"),
    (0, b"\xff\x0a"),
    (0, b"\x00\x00\x00\x0cJXL"),
)
_DECODED = (
    (0, b"\xff\xd8\xff"),
    (0, b"\x89PNG"),
    (8, b"WEBP"),
    (0, b"GIF8"),
    (0, b"BM"),
    (0, b"II*\x00"),
    (0, b"MM\x00*"),
)


def decode(data: bytes, config: DecodeConfig, framing: Framing) -> Decoded | Refused:
    """One image by the policy; every failure is a reason."""
    if len(data) > config.max_file_mib << 20:
        return Refused("file_too_big")
    # Pillow raises at twice this number already while it opens; between the two it only warns.
    Image.init()
    Image.MAX_IMAGE_PIXELS = int(config.max_megapixels * 1e6 / 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, config, framing)
    except Image.DecompressionBombError:
        return Refused("too_many_pixels")
    except UnidentifiedImageError:
        return Refused(_why_unidentified(data))
    # Border to foreign code: a broken PNG chunk raises SyntaxError, others nearly anything.
    except Exception as error:  # noqa: BLE001
        return Refused(_why_failed(error))


def _decode(data: bytes, config: DecodeConfig, framing: Framing) -> Decoded | Refused:
    formats = [name for name in FORMATS if config.tiff or name != "TIFF"]
    with Image.open(io.BytesIO(data), formats=formats) as image:
        refused = _check_size(image, config)
        if refused:
            return refused
        kind = image.format or ""
        flags = _animation(image)
        orientation = image.getexif().get(_ORIENTATION, 1) if config.exif_orientation else 1
        size = image.size
        if config.reduced_jpeg and kind in ("JPEG", "MPO"):
            width, height = _resized(size, framing)
            image.draft("RGB" if image.mode != "L" else "L", (2 * width, 2 * height))
        image.load()
        picture, colour_flags = _to_rgb(image)
    if orientation in range(2, 9):
        picture = _turned(picture, orientation)
        flags.append(f"exif:{orientation}")
        if orientation >= 5:
            size = size[::-1]
    picture = _framed(picture, size, framing)
    named = ",".join(flags + colour_flags)
    return Decoded(picture.tobytes(), *picture.size, *size, format=kind, flags=named)


def _check_size(image: Image.Image, config: DecodeConfig) -> Refused | None:
    width, height = image.size
    if min(width, height) < config.min_side_px:
        return Refused("too_small")
    if width * height > config.max_megapixels * 1e6 or max(width, height) > config.max_side_px:
        return Refused("too_many_pixels")
    return None


def _animation(image: Image.Image) -> list[str]:
    """The first frame is taken. Only PNG and WebP say in their header how many there are."""
    if not getattr(image, "is_animated", False) or image.format == "MPO":
        return []
    if image.format == "TIFF":
        return ["pages"]
    counted = image.format in ("PNG", "WEBP")
    return [f"animated:{getattr(image, 'n_frames', '')}" if counted else "animated"]


def _to_rgb(image: Image.Image) -> tuple[Image.Image, list[str]]:
    mode = image.mode
    if mode == "RGB":
        if "transparency" in image.info:
            return _on_white(image.convert("RGBA")), ["alpha"]
        return image, []
    if mode.startswith("I;16"):
        # convert("RGB") would clip: 40000 of 65535 becomes 255 instead of 156.
        raw = "L;16B" if mode.endswith("B") else "L;16"
        return Image.frombytes("L", image.size, image.tobytes(), "raw", raw).convert("RGB"), [
            "16bit"
        ]
    if mode in ("I", "F"):
        raise ValueError("no declared range")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _on_white(image if mode == "RGBA" else image.convert("RGBA")), ["alpha"]
    # Plain conversion, no colour management: ImageCms has written out of bounds.
    return image.convert("RGB"), ["cmyk"] if mode in ("CMYK", "YCCK") else []


def _on_white(image: Image.Image) -> Image.Image:
    """As vLLM does; a plain convert shows the hidden colours below alpha 0."""
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _turned(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _resized(size: tuple[int, int], framing: Framing) -> tuple[int, int]:
    """Size of the whole image once the framing has scaled it (Hugging Face's rounding)."""
    width, height = size
    short, long = min(size), max(size)
    if framing.mode == "crop":
        grown = int(framing.size_px * long / short)
        return (framing.size_px, grown) if width <= height else (grown, framing.size_px)
    scale = framing.size_px / long
    if framing.mode == "fit":
        scale = min(scale, 1.0)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _framed(image: Image.Image, size: tuple[int, int], framing: Framing) -> Image.Image:
    """`size` is that of the original: a reduced JPEG must end up at the same place."""
    if framing.mode == "crop":
        return _cropped(image, size, framing.size_px)
    if framing.mode == "pad":
        return _padded(image, size, framing)
    wanted = _resized(size, framing)
    return image if image.size == wanted else image.resize(wanted, Image.Resampling.BICUBIC)


def _cropped(image: Image.Image, size: tuple[int, int], side: int) -> Image.Image:
    """Resize and centre crop in one step: the whole of a 32768 x 2 image resized would be huge."""
    box: list[float] = [0.0] * 4
    for axis, whole in enumerate(_resized(size, Framing("crop", side))):
        left = (whole - side) // 2
        scale = image.size[axis] / whole
        box[axis], box[axis + 2] = left * scale, (left + side) * scale
    box[2], box[3] = min(box[2], image.width), min(box[3], image.height)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=tuple(box))  # type: ignore[arg-type]


def _padded(image: Image.Image, size: tuple[int, int], framing: Framing) -> Image.Image:
    side = framing.size_px
    if max(image.size) > MAX_PAD_CANVAS_PX:
        image = image.resize(_resized(size, framing), Image.Resampling.BICUBIC)
    long = max(image.size)
    canvas = Image.new("RGB", (long, long), PAD_COLOUR)
    canvas.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
    return canvas if long == side else canvas.resize((side, side), Image.Resampling.BICUBIC)


def _why_unidentified(data: bytes) -> str:
    if any(data[at : at + len(mark)] == mark for at, mark in _DECODED):
        return "decode_failed:UnidentifiedImageError"
    if b"<svg" in data[:1024] or _is_netpbm(data) or _is_tga(data):
        return "format_denied"
    if any(data[at : at + len(mark)] == mark for at, mark in _DENIED):
        return "format_denied"
    return "not_an_image"


def _is_netpbm(data: bytes) -> bool:
    return data[:1] == b"P" and data[1:2] in b"123456" and data[2:3] in b" \t\r\n"


def _is_tga(data: bytes) -> bool:
    """Targa has no signature: colour map flag, image type and depth must fit each other."""
    return (
        len(data) >= 18
        and data[1] in (0, 1)
        and data[2] in (1, 2, 3, 9, 10, 11)
        and data[16] in (8, 15, 16, 24, 32)
    )


def _why_failed(error: Exception) -> str:
    # Pillow has no class of its own for a file that ends too early, only these words.
    if isinstance(error, OSError) and "truncated" in str(error).lower():
        return "truncated"
    return f"decode_failed:{type(error).__name__}"
