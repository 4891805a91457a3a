"""Generates over sixty kinds of image files, five of each: good, damaged and hostile ones.

Each kind lists its allowed outcomes: ok, or some reasons.
"""

import gzip
import io
import random
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.conftest import photo

Make = Callable[[random.Random], bytes]
OK = ("ok",)
DAMAGED = ("truncated", "decode_failed")
ANY = ("ok", "truncated", "decode_failed", "not_an_image", "too_many_pixels", "too_small")
PER_KIND = 5


@dataclass(frozen=True)
class Kind:
    """One kind of image files.

    Attributes:
        make: Makes a file of this kind.
        ends: Allowed outcomes: "ok", and reasons without the part after their colon.
    """

    make: Make
    ends: tuple[str, ...]


def corpus() -> Iterator[tuple[str, bytes, tuple[str, ...]]]:
    """Yield name, bytes and allowed outcomes of every file; the same every time."""
    for name, kind in KINDS.items():
        chance = random.Random(name)
        for number in range(PER_KIND):
            yield f"{name} {number}", kind.make(chance), kind.ends


def _image(chance: random.Random, mode: str = "RGB", size: tuple[int, int] = (70, 50)) -> Image:
    pixels = np.random.default_rng(chance.getrandbits(32)).integers(0, 256, (5, 7, 3), np.uint8)
    picture = Image.fromarray(pixels).resize(size, Image.Resampling.BICUBIC)
    if mode == "I;16":
        return Image.fromarray(np.asarray(picture.convert("L"), np.uint16) * 257)
    if mode == "PA":
        return picture.convert("P").convert("PA")
    return picture.convert("L").convert(mode) if mode in ("LA", "F", "I") else picture.convert(mode)


def _saved(image: Image.Image, kind: str, **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _as(kind: str, mode: str = "RGB", **options: object) -> Make:
    return lambda chance: _saved(_image(chance, mode), kind, **options)


def _cut(kind: str, share: float, **options: object) -> Make:
    def make(chance: random.Random) -> bytes:
        data = _saved(_image(chance, size=(300, 200)), kind, **options)
        return data[: int(len(data) * share)]

    return make


def _flipped(kind: str, share: float, **options: object) -> Make:
    """Flip bits at random places."""

    def make(chance: random.Random) -> bytes:
        data = bytearray(_saved(_image(chance, size=(200, 150)), kind, **options))
        for _ in range(max(int(len(data) * 8 * share), 1)):
            at = chance.randrange(len(data))
            data[at] ^= 1 << chance.randrange(8)
        return bytes(data)

    return make


def _frames(kind: str, count: int) -> Make:
    def make(chance: random.Random) -> bytes:
        frames = [_image(chance, size=(20, 16)) for _ in range(count)]
        return _saved(frames[0], kind, save_all=True, append_images=frames[1:])

    return make


def _exif(orientation: int) -> Make:
    def make(chance: random.Random) -> bytes:
        about = Image.Exif()
        about[0x0112] = orientation
        return _saved(_image(chance), "JPEG", exif=about)

    return make


def _png(*chunks: tuple[bytes, bytes]) -> bytes:
    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(name, data) for name, data in chunks)


def _header(width: int, height: int, depth: int = 8, colour: int = 2) -> tuple[bytes, bytes]:
    return b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)


def _png_of(width: int, height: int, *before: tuple[bytes, bytes]) -> Make:
    rows = zlib.compress(
        b"".join(b"\0" + bytes(3 * min(width, 64)) for _ in range(min(height, 64)))
    )
    return lambda chance: _png(_header(width, height), *before, (b"IDAT", rows), (b"IEND", b""))


def _bad_crc(chance: random.Random) -> bytes:
    data = bytearray(_saved(_image(chance), "PNG"))
    at = data.index(b"IDAT") + 4 + chance.randrange(20)
    data[at] ^= 0xFF
    return bytes(data)


def _jpeg_sized(width: int, height: int) -> Make:
    """Make a JPEG whose header gives a wrong size."""

    def make(chance: random.Random) -> bytes:
        data = bytearray(_saved(_image(chance), "JPEG"))
        at = data.index(b"\xff\xc0") + 5
        data[at : at + 4] = struct.pack(">HH", height, width)
        return bytes(data)

    return make


def _zip(chance: random.Random) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w") as archive:
        archive.writestr("a.jpg", photo(chance.randrange(99), (40, 30)))
    return sink.getvalue()


def _bomb_text(name: bytes) -> Make:
    """Make a PNG with a small chunk that unpacks to 64 MB."""
    packed = zlib.compress(bytes(64 << 20), 9)
    body = b"a\0\0" + packed
    rows = zlib.compress(b"".join(b"\0" + bytes(3 * 8) for _ in range(8)))
    return lambda chance: _png(_header(8, 8), (name, body), (b"IDAT", rows), (b"IEND", b""))


def _starting(data: bytes) -> Make:
    return lambda chance: data + bytes(chance.randrange(256) for _ in range(200))


DENIED = {
    "EPS": b"%!PS-Adobe-3.0 EPSF-3.0\n",
    "PDF": b"%PDF-1.7\n",
    "PSD": b"8BPS\x00\x01",
    "FITS": b"SIMPLE  =                    T",
    "JPEG 2000": b"\x00\x00\x00\x0cjP  \r\n\x87\n",
    "ICO": b"\x00\x00\x01\x00\x01\x00",
    "HEIC": b"\x00\x00\x00\x1cftypheic",
}

KINDS: dict[str, Kind] = {
    "nothing": Kind(lambda chance: b"", ("not_an_image",)),
    "one byte": Kind(lambda chance: bytes([chance.randrange(256)]), ("not_an_image",)),
    "HTML": Kind(lambda chance: b"<html>403 Forbidden</html>", ("not_an_image",)),
    "text": Kind(lambda chance: b"not an image\n" * chance.randint(1, 99), ("not_an_image",)),
    "noise": Kind(lambda chance: chance.randbytes(3000), ("not_an_image",)),
    "zip": Kind(_zip, ("not_an_image",)),
    "gzip": Kind(lambda chance: gzip.compress(photo(1, (40, 30))), ("not_an_image",)),
    "LFS pointer": Kind(
        lambda chance: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
        ("not_an_image",),
    ),
    "SVG": Kind(
        lambda chance: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        ("format_denied",),
    ),
    **{name: Kind(_starting(head), ("format_denied",)) for name, head in DENIED.items()},
    "AVIF": Kind(_as("AVIF"), OK),
    "AVIF head alone": Kind(_starting(b"\x00\x00\x00\x1cftypavif"), ("decode_failed",)),
    "JPEG": Kind(_as("JPEG"), OK),
    "JPEG grey": Kind(_as("JPEG", "L"), OK),
    "JPEG CMYK": Kind(_as("JPEG", "CMYK"), OK),
    "JPEG YCbCr": Kind(_as("JPEG", "YCbCr"), OK),
    "JPEG progressive": Kind(_as("JPEG", progressive=True), OK),
    "JPEG optimised": Kind(_as("JPEG", optimize=True), OK),
    "JPEG with trailing bytes": Kind(lambda c: _as("JPEG")(c) + c.randbytes(99), OK),
    "JPEG with a zip behind": Kind(lambda c: _as("JPEG")(c) + _zip(c), OK),
    "JPEG with a broken profile": Kind(_as("JPEG", icc_profile=b"broken" * 9), OK),
    "JPEG with a large comment": Kind(_as("JPEG", comment=b"x" * 60_000), OK),
    **{f"JPEG EXIF {n}": Kind(_exif(n), OK) for n in range(1, 9)},
    **{f"JPEG cut at {s:.0%}": Kind(_cut("JPEG", s), DAMAGED) for s in (0.5, 0.9)},
    "JPEG cut at 10%": Kind(_cut("JPEG", 0.1), (*DAMAGED, "not_an_image")),
    "JPEG without an end": Kind(_cut("JPEG", 0.99), DAMAGED),
    "JPEG progressive, cut": Kind(_cut("JPEG", 0.6, progressive=True), DAMAGED),
    "JPEG flipped": Kind(_flipped("JPEG", 0.0005), ANY),
    "JPEG flipped a lot": Kind(_flipped("JPEG", 0.01), ANY),
    "JPEG that says 65535 x 65535": Kind(_jpeg_sized(65535, 65535), ("too_many_pixels",)),
    "JPEG that says 1 x 65535": Kind(_jpeg_sized(1, 65535), ("too_small",)),
    "JPEG that says more rows": Kind(_jpeg_sized(70, 400), (*DAMAGED, "ok")),
    "PNG": Kind(_as("PNG"), OK),
    **{f"PNG {mode}": Kind(_as("PNG", mode), OK) for mode in ("1", "L", "P", "LA", "RGBA", "I;16")},
    "TIFF of 32-bit numbers": Kind(_as("TIFF", "I"), ("decode_failed",)),
    "PNG with one clear colour": Kind(_as("PNG", "P", transparency=3), OK),
    "PNG interlaced": Kind(_as("PNG", interlace=1), OK),
    "PNG animated": Kind(_frames("PNG", 10), OK),
    "PNG cut": Kind(_cut("PNG", 0.6), DAMAGED),
    "PNG bad checksum": Kind(_bad_crc, DAMAGED),
    "PNG flipped": Kind(_flipped("PNG", 0.0005), ANY),
    "PNG of zeros, 20000 x 20000": Kind(_png_of(20_000, 20_000), ("too_many_pixels",)),
    "PNG of zeros, 1 x 9": Kind(_png_of(1, 9), ("too_small",)),
    "PNG 0 x 0": Kind(_png_of(0, 0), ("decode_failed", "too_small")),
    "PNG text bomb": Kind(_bomb_text(b"zTXt"), ("ok", "decode_failed")),
    "PNG profile bomb": Kind(_bomb_text(b"iCCP"), ("ok", "decode_failed")),
    "PNG broken chunk": Kind(
        lambda c: _png(_header(8, 8), (b"tRNS", b""), (b"IDAT", b"x"), (b"IEND", b"")),
        DAMAGED,
    ),
    "PNG header alone": Kind(lambda c: _png(_header(8, 8)), DAMAGED),
    "WebP": Kind(_as("WEBP"), OK),
    "WebP lossless": Kind(_as("WEBP", lossless=True), OK),
    "WebP with alpha": Kind(_as("WEBP", "RGBA"), OK),
    "WebP animated": Kind(_frames("WEBP", 5), OK),
    "WebP cut": Kind(_cut("WEBP", 0.6), (*DAMAGED, "not_an_image")),
    "WebP flipped": Kind(_flipped("WEBP", 0.001), ANY),
    "GIF": Kind(_as("GIF"), OK),
    "GIF of 10 frames": Kind(_frames("GIF", 10), OK),
    "GIF of 300 frames": Kind(_frames("GIF", 300), OK),
    "GIF cut": Kind(_cut("GIF", 0.6), DAMAGED),
    "GIF 0 x 0": Kind(lambda c: b"GIF89a" + bytes(10) + b";", (*DAMAGED, "too_small")),
    "TIFF": Kind(_as("TIFF"), OK),
    "TIFF 16-bit": Kind(_as("TIFF", "I;16"), OK),
    "TIFF float": Kind(_as("TIFF", "F"), ("decode_failed",)),
    "TIFF of pages": Kind(_frames("TIFF", 3), OK),
    "TIFF packed": Kind(_as("TIFF", compression="tiff_lzw"), OK),
    "TIFF cut": Kind(_cut("TIFF", 0.4), (*DAMAGED, "not_an_image")),
    "BMP": Kind(_as("BMP"), OK),
    "BMP of a palette": Kind(_as("BMP", "P"), OK),
    "BMP cut": Kind(_cut("BMP", 0.5), DAMAGED),
}
