"""The decoding policy on drawn images of every mode, and on damaged and hostile files."""

import csv
import io
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded, Framing, Refused
from tests.conftest import SHARED_DATA, photo
from tests.images.corpus import KINDS, corpus

FULL = Framing("fit", 4096)


@pytest.fixture(scope="module")
def decoder() -> Iterator[GuardedDecoder]:
    guarded = GuardedDecoder(DecodeConfig(), FULL)
    yield guarded
    guarded.close()


def _encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    sink = io.BytesIO()
    image.save(sink, kind, **options)
    return sink.getvalue()


def _pixels(decoded: Decoded | Refused) -> np.ndarray:
    assert isinstance(decoded, Decoded), decoded
    shape = (decoded.pixel_height, decoded.pixel_width, 3)
    return np.frombuffer(decoded.pixels, np.uint8).reshape(shape)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "GIF", "WEBP", "JPEG"])
@pytest.mark.parametrize("mode", ["RGB", "L", "P", "1"])
def test_every_mode_of_every_format_gives_its_colours(
    decoder: GuardedDecoder, kind: str, mode: str
) -> None:
    if (kind, mode) in (("JPEG", "P"), ("JPEG", "1")):
        pytest.skip("JPEG has no such mode")
    image = Image.open(io.BytesIO(photo(1, (64, 48)))).convert(mode)
    options = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}
    found = _pixels(decoder.decode(_encoded(image, kind, **options)))
    wanted = np.asarray(image.convert("RGB")).astype(int)
    if kind == "GIF" and mode == "RGB":
        assert np.abs(found - wanted).mean() < 20  # 256 colours
    else:
        assert np.abs(found - wanted).max() <= (40 if kind == "JPEG" else 0)


def test_sixteen_bits_are_shifted_and_not_clipped(decoder: GuardedDecoder) -> None:
    image = Image.fromarray(np.full((10, 10), 40_000, np.uint16))
    decoded = decoder.decode(_encoded(image))
    assert _pixels(decoded).max() == 40_000 >> 8
    assert isinstance(decoded, Decoded)
    assert decoded.flags == "16bit"


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_pixels_become_white(decoder: GuardedDecoder, mode: str) -> None:
    image = Image.new("RGBA", (20, 20), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 10, 20))
    saved = _encoded(image.convert(mode)) if mode != "P" else _encoded(image.quantize())
    decoded = decoder.decode(saved)
    assert tuple(_pixels(decoded)[5, 15]) == (255, 255, 255)
    assert isinstance(decoded, Decoded)
    assert decoded.flags == "alpha"


def test_cmyk_is_converted_and_flagged(decoder: GuardedDecoder) -> None:
    image = Image.new("CMYK", (16, 16), (0, 255, 255, 0))
    decoded = decoder.decode(_encoded(image, "JPEG"))
    red, green, blue = (int(v) for v in _pixels(decoded)[8, 8])
    assert red > 200
    assert max(green, blue) < 60
    assert isinstance(decoded, Decoded)
    assert decoded.flags == "cmyk"


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_turns_the_picture_as_a_person_sees_it(
    decoder: GuardedDecoder, orientation: int
) -> None:
    upright = Image.new("RGB", (64, 32), (255, 255, 255))
    upright.paste((255, 0, 0), (0, 0, 16, 16))  # red in the top left corner
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation > 1 else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decoder.decode(_encoded(stored, "PNG", exif=exif))
    assert isinstance(decoded, Decoded)
    assert (decoded.width, decoded.height) == (64, 32)
    assert tuple(_pixels(decoded)[4, 4]) == (255, 0, 0)


def test_of_an_animation_the_first_frame_is_taken_and_the_count_kept(
    decoder: GuardedDecoder,
) -> None:
    frames = [Image.new("RGB", (20, 20), (n, 0, 0)) for n in (10, 120, 240)]
    data = _encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    decoded = decoder.decode(data)
    assert isinstance(decoded, Decoded)
    assert decoded.flags == "animated:3"
    assert _pixels(decoded).max() <= 12


def test_crop_is_what_the_original_processor_does() -> None:
    from transformers import CLIPImageProcessor

    processor = CLIPImageProcessor(
        size={"shortest_edge": 336}, crop_size={"height": 336, "width": 336}
    )
    image = Image.open(io.BytesIO(photo(3, (1000, 667)))).convert("RGB")
    wanted = processor(image, do_normalize=False, do_rescale=False).pixel_values[0]
    decoder = GuardedDecoder(DecodeConfig(), Framing("crop", 336))
    found = _pixels(decoder.decode(_encoded(image)))
    decoder.close()
    assert np.abs(found.transpose(2, 0, 1).astype(int) - np.asarray(wanted)).max() <= 2


def test_pad_is_what_the_original_expansion_to_a_square_does() -> None:
    image = Image.open(io.BytesIO(photo(3, (1000, 667)))).convert("RGB")
    canvas = Image.new("RGB", (1000, 1000), (122, 116, 104))
    canvas.paste(image, (0, (1000 - 667) // 2))
    wanted = np.asarray(canvas.resize((336, 336), Image.Resampling.BICUBIC)).astype(int)
    decoder = GuardedDecoder(DecodeConfig(), Framing("pad", 336))
    found = _pixels(decoder.decode(_encoded(image)))
    decoder.close()
    assert np.abs(found - wanted).max() == 0


def test_a_jpeg_unpacked_at_reduced_scale_looks_the_same() -> None:
    data = photo(5, (2250, 1500))
    pictures = []
    for reduced in (True, False):
        decoder = GuardedDecoder(DecodeConfig(reduced_jpeg=reduced), Framing("crop", 336))
        pictures.append(_pixels(decoder.decode(data)).astype(int))
        decoder.close()
    assert np.abs(pictures[0] - pictures[1]).mean() < 1.0


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not_an_image"),
        (b"\x00", "not_an_image"),
        (b"<html>403 Forbidden</html>", "not_an_image"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "not_an_image"),
        (photo(1)[:2000], "truncated"),
        (photo(1, kind="PNG")[:20_000], "truncated"),
        (b"%PDF-1.7\n", "format_denied"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "format_denied"),
        (b"8BPS\x00\x01" + bytes(100), "format_denied"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "format_denied"),
        (b"P6\n1 1\n255\n" + bytes(3), "format_denied"),
        (_encoded(Image.new("RGB", (1, 50))), "too_small"),
        (_encoded(Image.new("F", (20, 20)), "TIFF"), "decode_failed:ValueError"),
        (b"\x89PNG\r\n\x1a\n" + bytes(40), "decode_failed:UnidentifiedImageError"),
    ],
    ids=range(14),
)
def test_a_file_that_cannot_be_decoded_has_a_fixed_reason(
    decoder: GuardedDecoder, data: bytes, reason: str
) -> None:
    assert decoder.decode(data) == Refused(reason)


def test_a_bomb_costs_nothing(decoder: GuardedDecoder) -> None:
    bomb = _encoded(Image.new("1", (10_000, 10_000)))
    assert len(bomb) < 20_000
    started = time.monotonic()
    assert decoder.decode(bomb) == Refused("too_many_pixels")
    assert time.monotonic() - started < 1
    assert decoder.decode(_encoded(Image.new("1", (32_770, 2)))) == Refused("too_many_pixels")


def test_a_file_above_the_limit_is_not_even_sent() -> None:
    decoder = GuardedDecoder(DecodeConfig(max_file_mib=1), FULL)
    assert decoder.decode(bytes(2 << 20)) == Refused("file_too_big")
    assert decoder._child is None


def test_a_child_that_is_killed_costs_one_image_and_is_replaced(decoder: GuardedDecoder) -> None:
    good = photo(1)
    assert isinstance(decoder.decode(good), Decoded)
    assert decoder._child is not None
    decoder._child.kill()
    decoder._child.wait()
    assert isinstance(decoder.decode(good), Decoded)


def test_a_child_that_hangs_is_ended_at_the_deadline() -> None:
    import os
    import signal

    decoder = GuardedDecoder(DecodeConfig(deadline_s=0.5), FULL)
    decoder.decode(photo(1))
    assert decoder._child is not None
    os.kill(decoder._child.pid, signal.SIGSTOP)
    assert decoder.decode(photo(1)) == Refused("decode_failed:timeout")
    assert isinstance(GuardedDecoder(DecodeConfig(), FULL).decode(photo(1)), Decoded)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "I;16", "L"])
def test_the_largest_image_allowed_stays_within_the_memory_limit(mode: str) -> None:
    side = 8000
    depth = np.uint16 if mode == "I;16" else np.uint8
    shape = (side, side) if mode in ("L", "I;16") else (side, side, len(mode))
    data = _encoded(Image.fromarray(np.zeros(shape, depth)), compress_level=1)
    decoder = GuardedDecoder(DecodeConfig(), Framing("crop", 336))
    assert isinstance(decoder.decode(data), Decoded)
    assert decoder._child is not None
    status = Path(f"/proc/{decoder._child.pid}/status").read_text()
    decoder.close()
    peak_mib = int(status.split("VmHWM:")[1].split()[0]) / 1024
    assert peak_mib < 700


# Allowed reasons for each category. A file that decodes is right in every category.
REASONS = {
    "truncated": ("truncated", "format_denied"),
    "bomb": ("too_many_pixels", "format_denied", "decode_failed"),
    "not-an-image": ("not_an_image",),
    "extreme-size": ("too_small", "format_denied", "not_an_image", "decode_failed"),
    "corrupt": (
        "truncated",
        "decode_failed",
        "not_an_image",
        "too_small",
        "too_many_pixels",
        "format_denied",
    ),
    "fuzz-crash": ("decode_failed", "truncated", "not_an_image", "format_denied"),
    "unusual-mode": ("format_denied", "decode_failed"),
    "bad-metadata": ("truncated", "decode_failed"),
    "trailing-garbage": ("not_an_image",),
}


@pytest.mark.skipif(not (SHARED_DATA / "bad_images").exists(), reason="needs ../shared/data")
def test_the_corpus_of_bad_images_gives_the_right_reasons(decoder: GuardedDecoder) -> None:
    folder = SHARED_DATA / "bad_images"
    rows = list(csv.DictReader((folder / "manifest.csv").open()))
    assert len(rows) == 143
    for row in rows:
        started = time.monotonic()
        found = decoder.decode((folder / row["file"]).read_bytes())
        assert time.monotonic() - started < 5, row["file"]
        if isinstance(found, Refused):
            assert found.reason.startswith(REASONS[row["category"]]), (row["file"], found)
        else:
            assert row["pillow13_outcome"] == "decodes", row["file"]


def test_every_generated_file_ends_as_it_may_and_takes_no_process_with_it(
    decoder: GuardedDecoder,
) -> None:
    assert isinstance(decoder.decode(photo(1)), Decoded)
    child = decoder._child
    assert child is not None
    wrong, slowest = [], 0.0
    for name, data, ends in corpus():
        started = time.monotonic()
        found = decoder.decode(data)
        slowest = max(slowest, time.monotonic() - started)
        end = found.reason.split(":")[0] if isinstance(found, Refused) else "ok"
        if end not in ends:
            wrong.append((name, found if isinstance(found, Refused) else "ok", ends))
    assert wrong == []
    assert len(KINDS) >= 60
    assert slowest < 5
    assert decoder._child is child, "the child died"
    status = Path(f"/proc/{child.pid}/status").read_text()
    assert int(status.split("VmHWM:")[1].split()[0]) / 1024 < 700
