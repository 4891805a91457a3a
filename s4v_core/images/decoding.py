"""Decodes the bytes of an image to an RGB picture, or names the reason why that is impossible.

Runs inside the guarded child process (`guard.py`) and needs only Pillow. It never sets
LOAD_TRUNCATED_IMAGES, whose grey filler would be captioned.
"""

import io
import math
import warnings

from PIL import AvifImagePlugin, Image, ImageOps, UnidentifiedImageError, features

from s4v_core.images.policy import DecodeConfig, Decoded, Framing, Refused

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
"""Formats that are decoded; Pillow's default would open all it knows. None of Pillow's CVEs of
recent years is in the first three. MPO files are opened as JPEG."""

_HAS_AVIF = bool(features.check("avif"))
"""Whether this Pillow was built with the decoder of AVIF; its wheels are."""

_PAD_COLOUR = (122, 116, 104)
"""int(255 * mean) of CLIP: the colour of the border in the paper's SFT (share4v expand2square)."""

_MAX_PAD_CANVAS_PX = 4096
"""Images with a longer side are resized before the border is added: a square with a side of 32,768
pixels would take 4 GB."""

_ORIENTATION = 0x0112

# Position and bytes of the signatures of formats that are not decoded, to name the reason.
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
# The same for formats that are decoded: such a file is damaged and not unknown.
_DECODED = (
    (0, b"\xff\xd8\xff"),
    (0, b"\x89PNG"),
    (8, b"WEBP"),
    *([(4, b"ftypavi")] if _HAS_AVIF else ()),
    (0, b"GIF8"),
    (0, b"BM"),
    (0, b"II*\x00"),
    (0, b"MM\x00*"),
)


def list_formats() -> list[str]:
    """The formats that are decoded, by Pillow's names."""
    return [*_FORMATS, "AVIF"] if _HAS_AVIF else list(_FORMATS)


def decode_image(data: bytes, config: DecodeConfig, framing: Framing) -> Decoded | Refused:
    """Decode one image according to the policy; every failure becomes a reason."""
    if len(data) > config.max_file_mib << 20:
        return Refused("file_too_big")
    # While opening, Pillow warns above this number and raises above twice this number.
    Image.init()
    # One thread: each more would take address space, which is limited here.
    AvifImagePlugin.DEFAULT_MAX_THREADS = 1
    Image.MAX_IMAGE_PIXELS = int(config.max_megapixels * 1e6 / 2)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode(data, config, framing)
    except Image.DecompressionBombError:
        return Refused("too_many_pixels")
    except UnidentifiedImageError:
        return Refused(_name_unidentified(data))
    # Pillow may raise almost anything; a broken PNG chunk, for example, raises SyntaxError.
    except Exception as error:  # noqa: BLE001
        return Refused(_name_failure(error))


def _decode(data: bytes, config: DecodeConfig, framing: Framing) -> Decoded | Refused:
    formats = [name for name in list_formats() if config.tiff or name != "TIFF"]
    with Image.open(io.BytesIO(data), formats=formats) as image:
        refused = _check_size(image, config)
        if refused:
            return refused
        kind = image.format or ""
        flags = _describe_frames(image)
        orientation = image.getexif().get(_ORIENTATION, 1) if config.exif_orientation else 1
        size = image.size
        if config.reduced_jpeg and kind in ("JPEG", "MPO"):
            width, height = _scale_size(size, framing)
            image.draft("RGB" if image.mode != "L" else "L", (2 * width, 2 * height))
        image.load()
        picture, colour_flags = _to_rgb(image)
    if orientation in range(2, 9):
        picture = _rotate(picture, orientation)
        flags.append(f"exif:{orientation}")
        if orientation >= 5:
            size = size[::-1]
    picture = _frame(picture, size, framing)
    all_flags = ",".join(flags + colour_flags)
    return Decoded(picture.tobytes(), *picture.size, *size, format=kind, flags=all_flags)


def _check_size(image: Image.Image, config: DecodeConfig) -> Refused | None:
    width, height = image.size
    if min(width, height) < config.min_side_px:
        return Refused("too_small")
    if width * height > config.max_megapixels * 1e6 or max(width, height) > config.max_side_px:
        return Refused("too_many_pixels")
    return None


def _describe_frames(image: Image.Image) -> list[str]:
    """Flag for an image of several frames, of which the first is used. Only PNG and WebP give their
    number in the header."""
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
            return _paste_on_white(image.convert("RGBA")), ["alpha"]
        return image, []
    if mode.startswith("I;16"):
        # convert("RGB") would clip the values: 40000 of 65535 becomes 255 instead of 156.
        raw = "L;16B" if mode.endswith("B") else "L;16"
        return Image.frombytes("L", image.size, image.tobytes(), "raw", raw).convert("RGB"), [
            "16bit"
        ]
    if mode in ("I", "F"):
        raise ValueError("no declared range")
    if mode in ("RGBA", "LA", "PA", "RGBa", "La") or "transparency" in image.info:
        return _paste_on_white(image if mode == "RGBA" else image.convert("RGBA")), ["alpha"]
    # Without colour management: ImageCms has had out-of-bounds writes.
    return image.convert("RGB"), ["cmyk"] if mode in ("CMYK", "YCCK") else []


def _paste_on_white(image: Image.Image) -> Image.Image:
    """Composite on white, as vLLM does; a plain convert would show transparent pixels' colours."""
    white = Image.new("RGB", image.size, (255, 255, 255))
    white.paste(image, mask=image.getchannel("A"))
    return white


def _rotate(image: Image.Image, orientation: int) -> Image.Image:
    image.getexif()[_ORIENTATION] = orientation
    return ImageOps.exif_transpose(image)


def _scale_size(size: tuple[int, int], framing: Framing) -> tuple[int, int]:
    """Size of the whole image after the framing has scaled it, rounded as Hugging Face does."""
    width, height = size
    short, long = min(size), max(size)
    if framing.mode == "crop":
        scaled = int(framing.size_px * long / short)
        return (framing.size_px, scaled) if width <= height else (scaled, framing.size_px)
    if framing.mode == "area":
        return _scale_to_area(width, height, framing.size_px**2)
    scale = framing.size_px / long
    if framing.mode == "fit":
        scale = min(scale, (framing.short_px or short) / short, 1.0)
    return max(round(width * scale), 1), max(round(height * scale), 1)


def _scale_to_area(width: int, height: int, most_px: int) -> tuple[int, int]:
    if width * height <= most_px:
        return width, height
    scale = math.sqrt(most_px / (width * height))
    return max(math.floor(width * scale), 1), max(math.floor(height * scale), 1)


def _frame(image: Image.Image, size: tuple[int, int], framing: Framing) -> Image.Image:
    """Frame a picture.

    Args:
        size: Size of the original, so that a JPEG decoded at a reduced scale gets the same frame.
    """
    if framing.mode == "crop":
        return _crop(image, size, framing.size_px)
    if framing.mode == "pad":
        return _pad(image, size, framing)
    wanted = _scale_size(size, framing)
    return image if image.size == wanted else image.resize(wanted, Image.Resampling.BICUBIC)


def _crop(image: Image.Image, size: tuple[int, int], side: int) -> Image.Image:
    """Resize and crop the centre in one step, as a 32768 x 2 image resized whole would be huge."""
    box: list[float] = [0.0] * 4
    for axis, whole in enumerate(_scale_size(size, Framing("crop", side))):
        left = (whole - side) // 2
        scale = image.size[axis] / whole
        box[axis], box[axis + 2] = left * scale, (left + side) * scale
    box[2], box[3] = min(box[2], image.width), min(box[3], image.height)
    return image.resize((side, side), Image.Resampling.BICUBIC, box=tuple(box))  # type: ignore[arg-type]


def _pad(image: Image.Image, size: tuple[int, int], framing: Framing) -> Image.Image:
    side = framing.size_px
    if max(image.size) > _MAX_PAD_CANVAS_PX:
        image = image.resize(_scale_size(size, framing), Image.Resampling.BICUBIC)
    long = max(image.size)
    canvas = Image.new("RGB", (long, long), _PAD_COLOUR)
    canvas.paste(image, ((long - image.width) // 2, (long - image.height) // 2))
    return canvas if long == side else canvas.resize((side, side), Image.Resampling.BICUBIC)


def _name_unidentified(data: bytes) -> str:
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
    """Targa has no signature, so colour map flag, image type and depth must be valid together."""
    return (
        len(data) >= 18
        and data[1] in (0, 1)
        and data[2] in (1, 2, 3, 9, 10, 11)
        and data[16] in (8, 15, 16, 24, 32)
    )


def _name_failure(error: Exception) -> str:
    # Pillow has no error class for a file that ends too early, only this word in the text.
    if isinstance(error, OSError) and "truncated" in str(error).lower():
        return "truncated"
    return f"decode_failed:{type(error).__name__}"
