"""Open WebUI, as its package starts it, in front of the whole interface with engine fake."""

import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.clients.test_clients import IMAGE, ROOT, SAID
from tests.perf.servers import free_port
from tests.serve.in_process import MODEL, SECRET
from tests.serve.service import data_url

PROGRAM = Path(os.environ.get("S4V_OPEN_WEBUI", ROOT / ".venv-webui" / "bin" / "open-webui"))
ABOUT_IMAGE = {
    "role": "user",
    "content": [
        {"type": "text", "text": "What is it?"},
        {"type": "image_url", "image_url": {"url": data_url(IMAGE)}},
    ],
}

pytestmark = [
    pytest.mark.clients,
    pytest.mark.timeout(900),
    pytest.mark.skipif(
        not PROGRAM.exists(),
        reason=f"no {PROGRAM}: install open-webui 0.12 into an environment of its own",
    ),
]


@pytest.fixture(scope="module")
def chat_page(address: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of Open WebUI's own interface, signed in as its first user."""
    folder = tmp_path_factory.mktemp("webui")
    settings = {
        "DATA_DIR": str(folder),
        "OPENAI_API_BASE_URL": address,
        "OPENAI_API_KEY": SECRET,
        "ENABLE_OLLAMA_API": "false",
        "RAG_EMBEDDING_ENGINE": "openai",  # the default one is downloaded
        "OFFLINE_MODE": "true",
        "WEBUI_SECRET_KEY": "tests",
    }
    port = free_port()
    command = [PROGRAM, "serve", "--host", "127.0.0.1", "--port", str(port)]
    with (folder / "log.txt").open("w") as log:
        page = subprocess.Popen(command, stdout=log, stderr=log, env=os.environ | settings)
    try:
        client = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60)
        _wait_for(client, folder / "log.txt")
        person = {"name": "Ada", "email": "ada@example.org", "password": "tests-alone"}
        token = client.post("/api/v1/auths/signup", json=person).json()["token"]
        client.headers["Authorization"] = f"Bearer {token}"
        yield client
    finally:
        page.kill()
        page.wait()


def _wait_for(client: httpx.Client, log: Path) -> None:
    deadline = time.monotonic() + 600
    while time.monotonic() < deadline:
        try:
            if client.get("/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(1)
    raise TimeoutError(log.read_text()[-3000:])


def _ask(page: httpx.Client, *messages: Any) -> str:
    body = {"model": MODEL, "messages": messages, "stream": False}
    answer = page.post("/api/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    said: str = answer.json()["choices"][0]["message"]["content"]
    return said


def test_it_lists_the_model_and_chats_about_an_image(chat_page: httpx.Client) -> None:
    models = chat_page.get("/api/models").json()["data"]
    assert MODEL in [model["id"] for model in models]
    said = _ask(chat_page, ABOUT_IMAGE)
    turns = {"role": "assistant", "content": said}, {"role": "user", "content": "And now?"}
    assert (said, _ask(chat_page, ABOUT_IMAGE, *turns)) == (SAID, SAID)


def test_it_streams(chat_page: httpx.Client) -> None:
    body = {"model": MODEL, "messages": [ABOUT_IMAGE], "stream": True}
    answer = chat_page.post("/api/chat/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.text.rstrip().endswith("data: [DONE]")
    assert answer.text.count("chat.completion.chunk") > 5


@pytest.mark.parametrize("task", ["title", "tags", "follow_up", "emoji", "queries"])
def test_its_own_tasks_are_answered(chat_page: httpx.Client, task: str) -> None:
    body = {"model": MODEL, "messages": [ABOUT_IMAGE], "prompt": "x", "type": "web_search"}
    answer = chat_page.post(f"/api/v1/tasks/{task}/completions", json=body)
    assert answer.status_code == 200, answer.text
    assert answer.json()["choices"][0]["message"]["content"]
