"""The page at "/" in a real browser, against the application with the fake engine."""

import base64
import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib import resources
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from s4v_core.generation.engines.fake_faults import Fault
from serve.guard import GuardConfig
from serve.keys import Keyring
from serve.routes import make_app
from serve.settings import ModelConfig, ServeConfig
from tests.conftest import photo
from tests.flow.browser import CHROMIUM, Page, browser
from tests.flow.oracle import fake_caption_of
from tests.serve.service import FAKE, Service, served

needs_chromium = pytest.mark.skipif(not CHROMIUM, reason="needs Chromium")

IMAGE = photo(1, (640, 480))
SAID = fake_caption_of(IMAGE)
FAULTY = FAKE | {"settings": FAKE["settings"] | {"fake_faults": True, "fake_latency_s": 0.1}}
SLOW = FAKE | {"id": "slow", "settings": FAKE["settings"] | {"fake_latency_s": 30.0}}
FILES = {"/": "text/html", "/page/page.css": "text/css", "/page/page.js": "text/javascript"}

STATUS = "document.querySelector('#told').textContent"
CAPTION = "document.querySelector('#caption .said')?.textContent"
ANSWERS = "[...document.querySelectorAll('#chat article:not(.question) .said')]"
LAST = f"{ANSWERS}.at(-1)?.textContent"
IDLE = "!document.querySelector('#send').disabled"

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
def opened(service: Service) -> Iterator[Page]:
    """The page after its key was typed."""
    with browser() as page:
        page.open(service.address + "/")
        type_key(page, service.key)
        page.wait(f"{STATUS} === 'The key is accepted.'")
        yield page


@pytest.fixture
def page(service: Service) -> Iterator[Page]:
    with opened(service) as found:
        yield found


def type_key(page: Page, key: str) -> None:
    page.focus("#key")
    page.type(key)
    page.press("Enter")


def say(page: Page, text: str) -> None:
    page.focus("#prompt")
    page.type(text)
    page.press("Enter")


def chat(page: Page, text: str) -> str:
    """What is answered to a message."""
    count = page.run(f"{ANSWERS}.length")
    say(page, text)
    page.wait(f"{ANSWERS}.length > {count} && {IDLE}")
    return page.run(LAST)


def choose_mode(page: Page, mode: str) -> None:
    page.run(f"document.querySelector('[value={mode}]').click()")


def caption(page: Page, path: Path, prompt: str = "") -> None:
    page.choose_file("#file", path)
    page.wait("!document.querySelector('#preview').hidden")
    say(page, prompt)
    page.wait(f"{IDLE} && !{STATUS}.startsWith('Waiting')")


def told_errors(page: Page) -> list[str]:
    """What the console holds, but for answers that are no 2xx: the browser notes them itself."""
    page.run("0")
    entries = [json.loads(error) for error in page.errors]
    return [
        json.dumps(entry) for entry in entries if entry.get("entry", {}).get("source") != "network"
    ]


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
    service: Service, page: Page, picture: Path
) -> None:
    assert page.run("[...document.querySelector('#model').options].map(o => o.value)") == [
        "share-captioner",
        "slow",
    ]
    caption(page, picture, "What's `this`?")
    assert page.run(CAPTION) == SAID
    shown = page.run("document.querySelector('#caption').innerText")
    for word in (
        "ok: it passed the gate",
        "640 \u00d7 480 JPEG",
        "Attempts",
        picture.name,
    ):
        assert word in shown
    found = json.loads(copied(page, "#copy-json"))
    assert (found["caption"], found["prompt"]) == (SAID, "What's `this`?")
    command = copied(page, "#copy-curl")
    assert service.key not in command
    assert run_command(command, service, picture.parent)["caption"] == SAID
    assert service.key not in page.run(
        "document.documentElement.outerHTML + document.cookie + JSON.stringify({...localStorage})"
        " + [...document.querySelectorAll('input, textarea')].map(i => i.value).join()"
    )
    assert told_errors(page) == []


def copied(page: Page, button: str) -> str:
    """What its button puts on the clipboard, as one finds out: by pasting it."""
    page.run("document.querySelector('#told').textContent = ''")
    page.focus(button)
    page.press("Enter")
    page.wait(f"{STATUS} === 'Copied.'")
    page.focus("#prompt")
    page.press("a", "selectAll")
    page.press("v", "paste")
    text = page.run("document.querySelector('#prompt').value")
    page.run("document.querySelector('#prompt').value = ''")
    return text


def run_command(command: str, service: Service, folder: Path) -> dict:
    """The answer to a copied command, run by a shell in the picture's folder."""
    environment = os.environ | {"S4V_KEY": service.key}
    done = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment, capture_output=True, timeout=60
    )
    return json.loads(done.stdout)


@needs_chromium
def test_a_rejected_caption_says_why(page: Page, tmp_path: Path) -> None:
    colour = np.full((64, 64, 3), (255, 0, Fault.REFUSAL), np.uint8)
    Image.fromarray(colour).save(tmp_path / "no.png")
    caption(page, tmp_path / "no.png")
    shown = page.run("document.querySelector('#caption').innerText")
    assert "rejected by the gate: refusal" in shown
    assert "I'm sorry, but I cannot describe this image." in shown
    assert page.run("document.querySelector('.status').className") == "status rejected"


@needs_chromium
def test_what_goes_wrong_is_said_in_one_sentence(
    service: Service, page: Page, picture: Path, tmp_path: Path
) -> None:
    say(page, "")
    page.wait(f"{STATUS} === 'Choose an image first.'")
    (tmp_path / "bad.jpg").write_bytes(b"<html>" * 9)
    page.choose_file("#file", tmp_path / "bad.jpg")
    say(page, "")
    page.wait(f"{STATUS} === 'The bytes are no image of a known format (not_an_image).'")
    (tmp_path / "big.jpg").write_bytes(bytes(1_100_000))
    page.choose_file("#file", tmp_path / "big.jpg")
    say(page, "")
    page.wait(f"{STATUS} === 'The image is too large: The body may have 1 MiB.'")
    page.choose_file("#file", picture)
    slow = {"model": "slow", "messages": [{"role": "user", "content": "Hi"}], "stream": True}
    with service.http() as client, ExitStack() as both:
        for _ in range(2):
            both.enter_context(client.stream("POST", "/v1/chat/completions", json=slow))
        say(page, "")
        page.wait(
            f"{STATUS} === 'Too many requests: This key may have 2 requests at a time;"
            " try again in 1 s.'"
        )
    page.offline(True)
    say(page, "")
    page.wait(f"{STATUS}.startsWith('No answer came')")
    page.offline(False)
    assert page.run("document.querySelector('#told').className") == "error"
    type_key(page, "s4v-wrong")
    page.wait(f"{STATUS} === 'This API key is not known: check it and try again.'")
    assert told_errors(page) == []


@needs_chromium
def test_a_conversation_about_a_pasted_image_goes_on(
    service: Service, page: Page, picture: Path
) -> None:
    choose_mode(page, "chat")
    put_in(page, "paste", "clipboardData")
    page.wait("document.querySelector('#preview').naturalWidth === 640")
    assert chat(page, "What is it?") == SAID
    assert chat(page, "And now? $(touch evil) `id` \\ \u00e9") == SAID
    found = json.loads(copied(page, "#copy-json"))
    assert [message["role"] for message in found["messages"]] == ["user", "assistant"] * 2
    assert found["messages"][0]["content"][0]["image_url"]["url"] == picture.name
    answer = run_command(copied(page, "#copy-curl"), service, picture.parent)
    assert answer["choices"][0]["message"]["content"] == SAID
    assert sorted(path.name for path in picture.parent.iterdir()) == [picture.name]
    put_in(page, "drop", "dataTransfer")
    page.wait(f"{STATUS} === 'Another image, a new conversation.'")
    assert page.run(f"{ANSWERS}.length") == 0
    assert told_errors(page) == []


def put_in(page: Page, event: str, data: str) -> None:
    """Pastes or drops the picture."""
    text = base64.b64encode(IMAGE).decode()
    kind = {"paste": "ClipboardEvent", "drop": "DragEvent"}[event]
    page.run(
        f"""
        var bytes = Uint8Array.from(atob("{text}"), c => c.charCodeAt(0));
        var all = new DataTransfer();
        all.items.add(new File([bytes], "it's $HOME.jpg", {{type: "image/jpeg"}}));
        var event = new {kind}("{event}", {{{data}: all, bubbles: true, cancelable: true}});
        document.querySelector("#drop").dispatchEvent(event)
    """
    )


@needs_chromium
def test_a_long_answer_is_seen_as_it_comes_and_can_be_stopped(page: Page) -> None:
    choose_mode(page, "chat")
    page.run("document.querySelector('#model').value = 'slow'")
    say(page, "word " * 100)
    page.wait(f"({LAST} ?? '').split(' ').length > 3")
    assert page.run("document.querySelector('#chat').getAttribute('aria-busy')") == "true"
    page.press("Escape")
    page.wait(f"{STATUS} === 'Stopped.'")
    text, whole = page.run(LAST), f"A fake answer to {('word ' * 100).strip()!r}."
    assert whole.startswith(text)
    assert text != whole
    assert page.run("document.querySelector('#chat .meta').textContent") == "not complete"
    page.run("document.querySelector('#model').value = 'share-captioner'")
    assert chat(page, "And?") == "A fake answer to 'And?'."


@needs_chromium
def test_what_a_model_says_stays_text(service: Service, page: Page, tmp_path: Path) -> None:
    choose_mode(page, "chat")
    for payload in PAYLOADS:
        assert chat(page, payload) == f"A fake answer to {payload!r}."
    choose_mode(page, "caption")
    (tmp_path / "<img src=x onerror=window.hit=1>.jpg").write_bytes(IMAGE)
    caption(page, tmp_path / "<img src=x onerror=window.hit=1>.jpg")
    assert page.run(CAPTION) == SAID
    assert page.run("window.hit") is None
    assert page.run("document.title") == "s4v"
    assert page.run("document.querySelectorAll('.said *').length") == 0
    assert page.run("document.scripts.length") == 1
    own = (service.address, f"blob:{service.address}", "data:,")
    assert [url for url in page.requests if not url.startswith(own)] == []
    assert page.errors == []


@needs_chromium
def test_it_works_from_the_keyboard_and_fits_narrow_and_wide_windows(
    page: Page, picture: Path, tmp_path: Path
) -> None:
    page.focus("#key")
    visited = []
    for _ in range(7):
        visited.append(page.run("document.activeElement.id || document.activeElement.value"))
        page.press("Tab")
    assert visited == ["key", "", "model", "caption", "file", "prompt", "send"]
    caption(page, picture)
    look(page, tmp_path, "caption")
    choose_mode(page, "chat")
    chat(page, "What is it?")
    chat(page, "And what else?")
    look(page, tmp_path, "chat")


def look(page: Page, folder: Path, name: str) -> None:
    for width, scheme in ((1280, "light"), (390, "light"), (1280, "dark"), (390, "dark")):
        page.show(width, 900, scheme)
        page.run("scrollTo(0, 0)")
        assert page.run("document.documentElement.scrollWidth") <= width
        path = folder / f"{name}-{width}-{scheme}.png"
        page.screenshot(path)
        print(path)  # noqa: T201
