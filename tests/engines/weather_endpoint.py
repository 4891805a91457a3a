"""An OpenAI-compatible endpoint in this process, with delays and errors that a test sets."""

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

from s4v_core.engines.fake import fake_caption

Reply = Callable[[dict[str, Any], str], tuple[int, object] | None]


class WeatherEndpoint:
    """Answers with the fake caption of each picture, unless a fault is set.

    Attributes:
        delay_s: Seconds before each answer.
        statuses: Statuses of the next answers, in order; later answers have 200.
        busy_until: Until this time every answer is 429 with Retry-After (monotonic clock).
        retry_after: Value of the Retry-After header of 429 answers.
        reset_every: The connection of every nth request is reset; 0 means never.
        refused: Fake captions of the pictures that are answered with 400.
        requests: Bodies of all requests so far.
        reply: Makes status and body (JSON, or a text for a page) of an answer from a request's body
            and the fake caption, in place of a plain answer; it may return None for that one.
    """

    def __init__(self, port: int = 0) -> None:
        self.delay_s, self.reset_every = 0.0, 0
        self.statuses: list[int] = []
        self.busy_until, self.retry_after = 0.0, "1"
        self.refused: set[str] = set()
        self.requests: list[dict[str, Any]] = []
        self.reply: Reply | None = None
        self._count, self._is_closed = 0, False
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._make_handler())
        self._server.daemon_threads = True
        self.port = self._server.server_port
        self.url = f"http://127.0.0.1:{self.port}/v1"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._is_closed = True
        self._server.shutdown()
        self._server.server_close()

    def _make_handler(self) -> type[BaseHTTPRequestHandler]:
        endpoint = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                endpoint._answer(self, body)

            def log_message(self, *parts: object) -> None:
                pass

        return Handler

    def _answer(self, handler: BaseHTTPRequestHandler, body: dict[str, Any]) -> None:
        with self._lock:
            self.requests.append(body)
            self._count += 1
            is_reset = self.reset_every and self._count % self.reset_every == 0
            is_reset = is_reset or self._is_closed  # connections that were kept alive, too
            status = self.statuses.pop(0) if self.statuses else 200
        if is_reset:
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"  # closing sends a reset
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            handler.close_connection = True
            handler.connection.close()
            return
        time.sleep(self.delay_s)
        if time.monotonic() < self.busy_until:
            status = 429
        text = describe_pictures(body)
        status = 400 if text in self.refused else status
        content: object = complete(body, text) if status == 200 else _error(status)
        if self.reply and status == 200 and (styled := self.reply(body, text)):
            status, content = styled
        is_page = isinstance(content, str)
        data = (content if isinstance(content, str) else json.dumps(content)).encode()
        kind = "text/html" if is_page else "application/json"
        headers = {"Content-Type": kind, "Content-Length": str(len(data))}
        headers |= {"Retry-After": self.retry_after} if status == 429 else {}
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(data)


@contextmanager
def open_endpoint(port: int = 0) -> Iterator[WeatherEndpoint]:
    endpoint = WeatherEndpoint(port)
    try:
        yield endpoint
    finally:
        endpoint.close()


def describe_pictures(body: dict[str, Any]) -> str:
    """Return the fake captions of all pictures of a request, or a text if it has none."""
    found = []
    for message in body["messages"]:
        parts = message["content"] if isinstance(message["content"], list) else []
        for part in parts:
            if part["type"] == "image_url":
                data = part["image_url"]["url"].partition(";base64,")[2]
                picture = Image.open(io.BytesIO(base64.b64decode(data)))
                found.append(fake_caption(np.asarray(picture)))
    return " ".join(found) or "No pictures came with this."


def complete(body: dict[str, Any], text: str) -> dict[str, Any]:
    """An answer in OpenAI's plain form."""
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "finish_reason": "stop", "message": message}
    usage = {"prompt_tokens": 5, "completion_tokens": 7, "total_tokens": 12}
    about = {"id": "1", "object": "chat.completion", "created": 0, "model": body["model"]}
    return about | {"choices": [choice], "usage": usage}


def _error(status: int) -> dict[str, Any]:
    return {"error": {"message": f"status {status}", "type": "test", "code": None}}
