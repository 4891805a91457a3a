"""Runs the application on the tests' own Ray, with the fake engine."""

import base64
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import httpx
import openai

from serve.app import build
from serve.keys import make_key

ALONE = {"min_replicas": 1, "max_replicas": 1}
FAKE = {
    "id": "share-captioner",
    "path": "none",
    "engine": "fake",
    "settings": {"cpus": 1, "max_num_seqs": 8},
    "scaling": ALONE,
}


@dataclass(frozen=True)
class Service:
    """Address of a running application, and a key for it."""

    address: str
    key: str

    @property
    def headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self.key}"}

    def http(self, **more: Any) -> httpx.Client:
        return httpx.Client(base_url=self.address, headers=self.headers, timeout=60, **more)

    def openai(self, key: str | None = None) -> openai.OpenAI:
        return openai.OpenAI(
            base_url=f"{self.address}/v1", api_key=key or self.key, max_retries=0, timeout=60
        )


@contextmanager
def served(folder: Path, *models: dict[str, Any], **settings: Any) -> Iterator[Service]:
    """Deploy an application on a running Ray, and delete it at the end.

    The rate of its key is unlimited in practice, unless `guard` sets another one.
    """
    from ray import serve

    secret, line = make_key("tests")
    (folder / "keys").write_text(f"{line}\n")
    settings = {"models": list(models), "ingress": ALONE} | settings
    guard = {"keys_file": str(folder / "keys"), "requests_per_minute": 10_000_000}
    settings["guard"] = guard | settings.get("guard", {})
    address = _start_proxy()
    try:
        serve.run(build(settings), name="s4v")
        yield Service(address, secret)
    finally:
        serve.delete("s4v")


@lru_cache(maxsize=1)
def _start_proxy() -> str:
    """Start Serve once per process; it ends with its Ray. Returns its address."""
    from ray import serve

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    return f"http://127.0.0.1:{port}"


def data_url(image: bytes) -> str:
    return "data:image/jpeg;base64," + base64.b64encode(image).decode()


def about(image: bytes, text: str = "What is it?") -> list[dict[str, Any]]:
    """Build messages with one question about one image."""
    parts = [
        {"type": "image_url", "image_url": {"url": data_url(image)}},
        {"type": "text", "text": text},
    ]
    return [{"role": "user", "content": parts}]
