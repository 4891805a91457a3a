"""The page at "/" in a real browser, against the application with the fake engine."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from s4v_core.engines.fake_faults import Fault
from serve.api.routes import make_app
from serve.front.guard import GuardConfig
from serve.keys import Keyring
from serve.settings import ModelConfig, ServeConfig
from tests.conftest import photo
from tests.flow.browser import Visit, browser, needs_chromium
from tests.flow.oracle import fake_caption_of
from tests.serve.service import FAKE, Service, served

IMAGE = photo(1, (640, 480))
SAID = fake_caption_of(IMAGE)
FAULTY = FAKE | {"settings": FAKE["settings"] | {"fake_faults": True, "fake_latency_s": 0.1}}
SLOW = FAKE | {"id": "slow", "settings": FAKE["settings"] | {"fake_latency_s": 30.0}}
FILES = {"/": "text/html", "/page/page.css": "text/css", "/page/page.js": "text/javascript"}

ANSWERS = "#chat article:not(.question) .text"

PAYLOADS = (
    "<script>window.hit=1</script>",
    "<img src=x onerror=window.hit=1>",
    "<svg onload=window.hit=1>",
    "<svg><script>window.hit=1</script></svg>",
    "<iframe srcdoc='<script>parent.hit=1</script>'></iframe>",
    "<iframe src=javascript:parent.hit=1></iframe>",
    "<a href=javascript:window.hit=1 id=evil>x</a>",
    "<body onload=window.hit=1>",
    "<input autofocus onfocus=window.hit=1>",
    "<details open ontoggle=window.hit=1>",
    "<video><source onerror=window.hit=1></video>",
    "<link rel=stylesheet href=http://192.0.2.1/x.css>",
    "<style>@import 'http://192.0.2.1/x.css'; * { display: none }</style>",
    "<meta http-equiv=refresh content='0;url=http://192.0.2.1/'>",
    "<base href=http://192.0.2.1/>",
    "<form action=http://192.0.2.1/><button id=send>x</button></form>",
    "![x](http://192.0.2.1/x.png) [y](javascript:window.hit=1)",
    "</p></article><script>window.hit=1</script>",
    "&lt;script&gt;window.hit=1&lt;/script&gt; \u202egnirts \u2028 {{7*7}} ${window.hit=1}",
    "';window.hit=1//\";window.hit=1//`;window.hit=1//--></script>",
)


@pytest.fixture(scope="module")
def service(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    settings = {"decode": {"reduced_jpeg": False}, "guard": {"max_body_mib": 1, "concurrent": 2}}
    with served(tmp_path_factory.mktemp("served"), FAULTY, SLOW, **settings) as found:
        yield found


@contextmanager
def opened(service: Service, **window: Any) -> Iterator[Visit]:
    """Open the page and type its key."""
    with browser(**window) as visit:
        visit.page.goto(service.address)
        type_key(visit.page, service.key)
        expect(status(visit.page)).to_have_text("The key is accepted.")
        yield visit


@pytest.fixture
def visit(service: Service) -> Iterator[Visit]:
    with opened(service) as found:
        yield found


@pytest.fixture
def page(visit: Visit) -> Page:
    return visit.page


def status(page: Page) -> Locator:
    return page.locator("#status")


def type_key(page: Page, key: str) -> None:
    page.fill("#key", key)
    page.press("#key", "Enter")


def say(page: Page, text: str) -> None:
    page.fill("#prompt", text)
    page.press("#prompt", "Enter")


def chat(page: Page, text: str) -> str | None:
    """Send a message and return the answer."""
    answers = page.locator(ANSWERS)
    count = answers.count()
    say(page, text)
    expect(answers).to_have_count(count + 1)
    expect(page.locator("#send")).to_be_enabled()
    return answers.last.text_content()


def caption(page: Page, path: Path, prompt: str = "") -> Locator:
    """Caption an image and return the place where the result is shown."""
    page.set_input_files("#file", path)
    expect(page.locator("#preview")).to_be_visible()
    say(page, prompt)
    expect(status(page)).not_to_have_text(re.compile("^Waiting"))
    expect(page.locator("#send")).to_be_enabled()
    return page.locator("#caption")


def page_errors(visit: Visit) -> list[str]:
    """Errors in the console, except for answers that are not 2xx: the browser logs those itself."""
    return [error for error in visit.errors if not error.startswith("Failed to load resource")]


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    path = tmp_path / "it's $HOME.jpg"
    path.write_bytes(IMAGE)
    return path


def test_its_files_are_small_and_load_nothing_from_elsewhere() -> None:
    folder = resources.files("serve") / "page"
    texts = [(folder / name).read_text() for name in ("index.html", "page.css", "page.js")]
    assert sum(len(text.encode()) for text in texts) < 20_000
    for text in texts:
        for forbidden in ("://", "innerHTML", "style=", "onclick", "Storage", "cookie", "eval("):
            assert forbidden not in text


def test_its_files_are_open_and_nothing_beside_them(service: Service) -> None:
    with httpx.Client(base_url=service.address) as client:
        for path, kind in FILES.items():
            found, head = client.get(path), client.head(path)
            assert (found.status_code, head.status_code, head.content) == (200, 200, b"")
            assert found.headers["content-type"] == f"{kind}; charset=utf-8"
            assert head.headers["content-length"] == str(len(found.content))
            assert "script-src 'self'" in found.headers["content-security-policy"]
            assert client.post(path).status_code == 401
        assert client.get("/page/page_files.py").status_code == 404
        paths = client.get("/openapi.json", headers=service.headers).json()["paths"]
        assert not paths.keys() & FILES.keys()


@pytest.mark.parametrize("page", [True, False])
def test_it_can_be_closed(page: bool) -> None:
    model = ModelConfig(id="fake", path="none", engine="fake")
    config = ServeConfig(models=(model,), guard=GuardConfig(page=page))
    paths = {getattr(route, "path", "") for route in make_app(config, Keyring()).routes}
    assert paths & FILES.keys() == (FILES.keys() if page else set())


@needs_chromium
def test_a_caption_comes_with_its_status_and_can_be_copied(
    service: Service, visit: Visit, picture: Path
) -> None:
    page = visit.page
    expect(page.locator("#model option")).to_have_text(["share-captioner", "slow"])
    shown = caption(page, picture, "What's `this`?")
    expect(shown.locator(".text")).to_have_text(SAID)
    for word in ("ok: it passed the gate", "640 \u00d7 480 JPEG", "Attempts", picture.name):
        expect(shown).to_contain_text(word)
    found = json.loads(copied(page, "#copy-json"))
    assert (found["caption"], found["prompt"]) == (SAID, "What's `this`?")
    command = copied(page, "#copy-curl")
    assert service.key not in command
    assert run_command(command, service, picture.parent)["caption"] == SAID
    assert service.key not in page.content() + page.evaluate(
        "document.cookie + JSON.stringify({...localStorage})"
        " + [...document.querySelectorAll('input, textarea')].map(i => i.value).join()"
    )
    assert page_errors(visit) == []


def copied(page: Page, button: str) -> str:
    """Press a copy button and return what it put on the clipboard, by pasting it."""
    page.evaluate("document.querySelector('#status').textContent = ''")
    page.press(button, "Enter")
    expect(status(page)).to_have_text("Copied.")
    page.press("#prompt", "Control+A")
    page.press("#prompt", "Control+V")
    text = page.input_value("#prompt")
    page.fill("#prompt", "")
    return text


def run_command(command: str, service: Service, folder: Path) -> dict:
    """Run a copied command in the picture's folder and return its answer."""
    environment = os.environ | {"S4V_KEY": service.key}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, timeout=60
    )
    return json.loads(done.stdout)


@needs_chromium
def test_a_rejected_caption_says_why(page: Page, tmp_path: Path) -> None:
    colour = np.full((64, 64, 3), (255, 0, Fault.REFUSAL), np.uint8)
    Image.fromarray(colour).save(tmp_path / "no.png")
    shown = caption(page, tmp_path / "no.png")
    expect(shown).to_contain_text("rejected by the gate: refusal")
    expect(shown).to_contain_text("I'm sorry, but I cannot describe this image.")
    expect(page.locator(".status")).to_have_class("status rejected")


@needs_chromium
def test_every_error_is_shown_in_one_sentence(
    service: Service, visit: Visit, picture: Path, tmp_path: Path
) -> None:
    page = visit.page
    say(page, "")
    expect(status(page)).to_have_text("Choose an image first.")
    (tmp_path / "bad.jpg").write_bytes(b"<html>" * 9)
    page.set_input_files("#file", tmp_path / "bad.jpg")
    say(page, "")
    expect(status(page)).to_have_text("The bytes are no image of a known format (not_an_image).")
    (tmp_path / "big.jpg").write_bytes(bytes(1_100_000))
    page.set_input_files("#file", tmp_path / "big.jpg")
    say(page, "")
    expect(status(page)).to_have_text("The image is too large: The body may have 1 MiB.")
    page.set_input_files("#file", picture)
    slow = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with service.http() as client, ExitStack() as both:
        for _ in range(2):
            both.enter_context(client.stream("POST", "/v1/chat/completions", json=slow))
        say(page, "")
        expect(status(page)).to_have_text(
            "Too many requests: This key may have 2 requests at a time; try again in 1 s."
        )
    page.context.set_offline(True)
    say(page, "")
    expect(status(page)).to_have_text(re.compile("^No answer came"))
    expect(status(page)).to_have_class("error")
    page.context.set_offline(False)
    type_key(page, "s4v-wrong")
    expect(status(page)).to_have_text("This API key is not known: check it and try again.")
    assert page_errors(visit) == []


@needs_chromium
def test_a_conversation_about_a_pasted_image_goes_on(
    service: Service, visit: Visit, picture: Path
) -> None:
    page = visit.page
    page.check("[value=chat]")
    put_in(page, "ClipboardEvent", "paste", "clipboardData")
    expect(page.locator("#preview")).to_have_js_property("naturalWidth", 640)
    assert chat(page, "What is it?") == SAID
    assert chat(page, "And now? $(touch evil) `id` \\ \u00e9") == SAID
    found = json.loads(copied(page, "#copy-json"))
    assert [message["role"] for message in found["messages"]] == ["user", "assistant"] * 2
    assert found["messages"][0]["content"][0]["image_url"]["url"] == picture.name
    answer = run_command(copied(page, "#copy-curl"), service, picture.parent)
    assert answer["choices"][0]["message"]["content"] == SAID
    assert sorted(path.name for path in picture.parent.iterdir()) == [picture.name]
    put_in(page, "DragEvent", "drop", "dataTransfer")
    expect(status(page)).to_have_text("Another image, a new conversation.")
    expect(page.locator(ANSWERS)).to_have_count(0)
    assert page_errors(visit) == []


@needs_chromium
def test_a_dropped_image_is_captioned(visit: Visit) -> None:
    put_in(visit.page, "DragEvent", "drop", "dataTransfer")
    expect(visit.page.locator("#preview")).to_have_js_property("naturalWidth", 640)
    say(visit.page, "")
    expect(visit.page.locator("#caption .text")).to_have_text(SAID)
    assert page_errors(visit) == []


def put_in(page: Page, kind: str, event: str, data: str) -> None:
    """Paste or drop the picture."""
    page.locator("#drop").evaluate(
        """(area, [text, kind, event, data]) => {
            const bytes = Uint8Array.from(atob(text), c => c.charCodeAt(0));
            const all = new DataTransfer();
            all.items.add(new File([bytes], "it's $HOME.jpg", {type: "image/jpeg"}));
            const happens = {[data]: all, bubbles: true, cancelable: true};
            area.dispatchEvent(new window[kind](event, happens));
        }""",
        [base64.b64encode(IMAGE).decode(), kind, event, data],
    )


@needs_chromium
def test_a_long_answer_is_seen_as_it_comes_and_can_be_stopped(page: Page) -> None:
    page.check("[value=chat]")
    page.select_option("#model", "slow")
    say(page, "word " * 100)
    answer = page.locator(ANSWERS).last
    expect(answer).to_have_text(re.compile(r"(\S+ ){3}"))
    expect(page.locator("#chat")).to_have_attribute("aria-busy", "true")
    page.keyboard.press("Escape")
    expect(status(page)).to_have_text("Stopped.")
    text, whole = answer.text_content(), f"A fake answer to {('word ' * 100).strip()!r}."
    assert text
    assert whole.startswith(text)
    assert text != whole
    expect(page.locator("#chat .meta")).to_have_text("not complete")
    page.select_option("#model", "share-captioner")
    assert chat(page, "And?") == "A fake answer to 'And?'."


@needs_chromium
def test_output_of_a_model_stays_text(service: Service, visit: Visit, tmp_path: Path) -> None:
    page = visit.page
    page.check("[value=chat]")
    for payload in PAYLOADS:
        assert chat(page, payload) == f"A fake answer to {payload!r}."
    page.check("[value=caption]")
    (tmp_path / "<img src=x onerror=window.hit=1>.jpg").write_bytes(IMAGE)
    shown = caption(page, tmp_path / "<img src=x onerror=window.hit=1>.jpg")
    expect(shown.locator(".text")).to_have_text(SAID)
    assert page.evaluate("window.hit") is None
    assert page.title() == "s4v"
    assert page.locator(".text *").count() == 0
    assert page.evaluate("document.scripts.length") == 1
    own = (service.address, f"blob:{service.address}", "data:,")
    assert [url for url in visit.requests if not url.startswith(own)] == []
    assert visit.errors == []


@needs_chromium
def test_it_works_from_the_keyboard(page: Page) -> None:
    page.focus("#key")
    visited = []
    for _ in range(7):
        visited.append(page.evaluate("document.activeElement.id || document.activeElement.value"))
        page.keyboard.press("Tab")
    assert visited == ["key", "", "model", "caption", "file", "prompt", "send"]


@needs_chromium
@pytest.mark.parametrize("width", [1280, 390])
def test_it_fits_desktop_and_phone(
    service: Service, width: int, picture: Path, tmp_path: Path
) -> None:
    viewport = {"width": width, "height": 900}
    with opened(service, viewport=viewport, is_mobile=width < 700) as visit:
        caption(visit.page, picture)
        look(visit.page, width, tmp_path, "caption")
        visit.page.check("[value=chat]")
        chat(visit.page, "What is it?")
        chat(visit.page, "And what else?")
        look(visit.page, width, tmp_path, "chat")


def look(page: Page, width: int, folder: Path, name: str) -> None:
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        path = folder / f"{name}-{scheme}.png"
        page.screenshot(path=path, full_page=True)
        print(path)  # noqa: T201
