"""Bytes of images as clients write them: kinds of base64, of data URLs and of files."""

import base64
import io
import urllib.parse
from typing import Any

import pytest
from PIL import Image, features

from tests.conftest import photo
from tests.serve.in_process import House, error_of

JPEG = photo(1)
TEXT = base64.b64encode(JPEG).decode()
HEAD = "data:image/jpeg;base64,"


@pytest.fixture(scope="module")
def house() -> House:
    return House()


def chat(house: House, url: str) -> Any:
    part = {"type": "image_url", "image_url": {"url": url}}
    return house.chat([{"role": "user", "content": [part]}])


def lines(text: str, width: int, end: str) -> str:
    return end.join(text[at : at + width] for at in range(0, len(text), width)) + end


UNPADDED = base64.b64encode(JPEG + b"0" * ((1 - len(JPEG)) % 3)).decode()
assert UNPADDED.endswith("==")
FORMS = {
    "plain": TEXT,
    "base64 of coreutils": lines(TEXT, 76, "\n"),
    "MIME": lines(TEXT, 76, "\r\n"),
    "openssl": lines(TEXT, 64, "\n"),
    "without padding": UNPADDED.rstrip("="),
    "padding in a line of its own": UNPADDED[:-2] + "\n==\n",
    "for URLs": base64.urlsafe_b64encode(JPEG).decode(),
    "for URLs, without padding": base64.urlsafe_b64encode(JPEG).decode().rstrip("="),
    "spaces around": f"  {TEXT} ",
    "tab behind": f"{TEXT}\t",
}
HEADS = (
    HEAD,
    *("DATA:image/JPEG;BASE64,", "data:;base64,", "data:image/png;base64,"),
    *(
        "data:image/jpeg;charset=utf-8;base64,",
        "data:text/plain;base64,",
        "data:image/jpg;base64, ",
    ),
)


@pytest.mark.parametrize("form", FORMS)
def test_base64_is_read_in_every_form(house: House, form: str) -> None:
    assert chat(house, HEAD + FORMS[form]).status_code == 200
    for image in (FORMS[form], HEAD + FORMS[form]):
        answer = house.post("/v1/caption", {"image": image})
        assert answer.status_code == 200, answer.text


@pytest.mark.parametrize("head", HEADS)
def test_a_data_url_says_little_about_its_bytes(house: House, head: str) -> None:
    assert chat(house, head + TEXT).status_code == 200


def test_a_data_url_may_be_percent_encoded(house: House) -> None:
    assert chat(house, HEAD + urllib.parse.quote(TEXT, safe="")).status_code == 200


@pytest.mark.parametrize(
    ("url", "code"),
    [
        (HEAD + TEXT.replace("+", " "), "bad_base64"),
        (HEAD + TEXT[:40] + "*" + TEXT[40:], "bad_base64"),
        (HEAD + TEXT[: len(TEXT) // 4 * 4 - 3], "bad_base64"),
        (HEAD + "\u00e4" * 8, "bad_base64"),
        ("data:image/jpeg," + TEXT, "bad_data_url"),
        ("data:image/jpeg;base64" + TEXT, "bad_data_url"),
        (TEXT, "bad_image_url"),
        ("", "bad_image_url"),
        ("cat.jpg", "bad_image_url"),
        ("/tmp/cat.jpg", "bad_image_url"),
        ("https://example.org/cat.jpg", "urls_off"),
        ("file:///etc/passwd", "urls_off"),
    ],
    ids=lambda value: value[:30],
)
def test_other_texts_are_refused_with_their_place(house: House, url: str, code: str) -> None:
    place = "messages[0].content[0].image_url"
    assert error_of(chat(house, url)) == (400, code, place)


def written(kind: str, **options: Any) -> bytes:
    sink = io.BytesIO()
    Image.open(io.BytesIO(JPEG)).save(sink, kind, **options)
    return sink.getvalue()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF"])
def test_every_format_that_pillow_reads_safely_is_taken(house: House, kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no decoder of AVIF")
    url = f"data:image/{kind.lower()};base64," + base64.b64encode(written(kind)).decode()
    assert chat(house, url).status_code == 200
    headers = {"authorization": "Bearer s4v-right", "content-type": f"image/{kind.lower()}"}
    answer = house.send("POST", "/v1/caption", content=written(kind), headers=headers)
    assert answer.json()["image_format"] == kind


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("HEIC", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00mif1heic" + bytes(200)),
        ("HEIC", b"\x00\x00\x00\x18ftypmif1\x00\x00\x00\x00mif1heic" + bytes(200)),
        ("JPEG XL", b"\x00\x00\x00\x0cJXL \r\n\x87\n" + bytes(200)),
        ("JPEG 2000", b"\x00\x00\x00\x0cjP  \r\n\x87\n" + bytes(200)),
        ("SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
        ("PDF", b"%PDF-1.7\n" + bytes(200)),
    ],
)
def test_other_formats_are_named_with_those_that_are_taken(
    house: House, name: str, data: bytes
) -> None:
    answer = chat(house, HEAD + base64.b64encode(data).decode())
    place = "messages[0].content[0].image_url"
    assert error_of(answer) == (422, "format_denied", place)
    message = answer.json()["error"]["message"]
    assert name in message
    assert "JPEG, PNG, WEBP" in message


def test_a_damaged_file_is_refused_with_its_place(house: House) -> None:
    cut = base64.b64encode(JPEG[: len(JPEG) // 2]).decode()
    place = "messages[0].content[0].image_url"
    assert error_of(chat(house, HEAD + cut)) == (422, "truncated", place)
    assert error_of(house.post("/v1/caption", {"image": cut})) == (422, "truncated", "image")
    assert error_of(chat(house, HEAD)) == (422, "not_an_image", place)


def drawn(width: int, height: int) -> str:
    sink = io.BytesIO()
    Image.new("1", (width, height)).save(sink, "PNG")
    return "data:image/png;base64," + base64.b64encode(sink.getvalue()).decode()


@pytest.mark.parametrize(
    ("width", "height", "code"),
    [(1, 1, "too_small"), (1, 900, "too_small"), (9000, 9000, "too_many_pixels")],
)
def test_an_image_of_a_wrong_size_is_refused(
    house: House, width: int, height: int, code: str
) -> None:
    place = "messages[0].content[0].image_url"
    assert error_of(chat(house, drawn(width, height))) == (422, code, place)
    assert chat(house, drawn(6000, 6000)).status_code == 200
