"""A teacher behind an OpenAI-compatible endpoint, with the faults of real ones, as a server of its
own: every request is logged with its time, and every answer with its price.

    python -m tests.collection.teacher_server PORT_FILE LOG [JSON of Faults]

Faults are chosen by the picture's bytes, so that each image meets its own, whatever the order.
"""

import asyncio
import hashlib
import json
import random
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from tests.collection.batch_server import BatchServer

PROMPT_TOKENS, OUTPUT_TOKENS = 100, 40
LAST_WORDS = "and a small boat lies beside the old stone bridge."


@dataclass
class Faults:
    """How often each fault happens.

    Attributes:
        first: For each fault, the share of pictures whose first request meets it; the second one
            is answered. busy: 429 with Retry-After; crowded: 429 without; broken: 500; malformed:
            no JSON; cut: the connection ends within the answer; empty: no text; slow: a second.
        always: For each fault, the share of pictures that meet it every time: refusal, filter,
            filtered (as HTTP 400), sorry (a refusal in words), blank.
        is_strict: Refuse max_tokens, and every temperature but 1, as newer models do.
        delay_s: Seconds before each answer.
        most_at_once: Requests under way above which an answer is 429; 0 for none.
        batch_s: Seconds that a batch takes. In a batch, pictures of `first` expire once.
    """

    first: dict[str, float] = field(default_factory=dict)
    always: dict[str, float] = field(default_factory=dict)
    is_strict: bool = False
    delay_s: float = 0.0
    most_at_once: int = 0
    batch_s: float = 1.0


class Teacher:
    def __init__(self, faults: Faults, log: Path) -> None:
        self._faults, self._log = faults, log.open("a", buffering=1)
        self._seen: set[str] = set()
        self._under_way = 0

    async def answer(self, request: web.Request) -> web.StreamResponse:
        at = time.monotonic()
        body = await request.json()
        picture = find_picture(body)
        self.note(at=at, event="request", picture=picture, key=request.headers["Authorization"])
        self._under_way += 1
        try:
            return await self._answer(request, body, picture)
        finally:
            self._under_way -= 1

    async def _answer(
        self, request: web.Request, body: dict[str, Any], picture: str
    ) -> web.StreamResponse:
        faults = self._faults
        if faults.is_strict and (refused := find_refused(body)):
            return web.json_response({"error": refused}, status=400)
        if faults.most_at_once and self._under_way > faults.most_at_once:
            return refuse(429, "too many at once")
        fault = draw(picture, faults.first) if picture not in self._seen else ""
        self._seen.add(picture)
        await asyncio.sleep(faults.delay_s + (1.0 if fault == "slow" else 0.0))
        if fault in ("busy", "crowded", "broken"):
            headers = {"Retry-After": "1"} if fault == "busy" else {}
            return refuse(500 if fault == "broken" else 429, fault, headers)
        if fault == "malformed":
            return web.Response(text='{"choices": [{"message": {"content": "A', status=200)
        if fault == "empty":
            return web.Response(text="", status=200)
        if fault == "cut":
            return await self._cut(request)
        status, answer = self._answer_fully(body, picture)
        return web.json_response(answer, status=status)

    async def _cut(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "1000"})
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.abort()
        return response

    def answer_line(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]] | None:
        """Status and body of the answer to a line of a batch; None if it expires."""
        picture, faults = find_picture(body), self._faults
        if faults.is_strict and (refused := find_refused(body)):
            return 400, {"error": refused}
        is_expired = picture not in self._seen and bool(draw(picture, faults.first))
        self._seen.add(picture)
        if is_expired:
            return None
        return self._answer_fully(body, picture)

    def _answer_fully(self, body: dict[str, Any], picture: str) -> tuple[int, dict[str, Any]]:
        fault = draw(picture, self._faults.always)
        if fault == "filtered":
            error = {"message": "blocked", "code": "content_filter", "type": "invalid_request"}
            return 400, {"error": error}
        self.note(at=time.monotonic(), event="paid", picture=picture, key="")
        return 200, complete(body, picture, fault)

    def note(self, **entry: object) -> None:
        self._log.write(json.dumps(entry) + "\n")


def complete(body: dict[str, Any], picture: str, fault: str = "") -> dict[str, Any]:
    """An answer in OpenAI's form."""
    message: dict[str, Any] = {"role": "assistant", "content": make_caption(picture)}
    finish = "stop"
    if fault == "refusal":
        message |= {"content": None, "refusal": "I can't help with that."}
    elif fault == "filter":
        message, finish = {"role": "assistant", "content": None}, "content_filter"
    elif fault == "sorry":
        message["content"] = "I'm sorry, but I can't assist with that request."
    elif fault == "blank":
        message["content"] = ""
    usage = {"prompt_tokens": PROMPT_TOKENS, "completion_tokens": OUTPUT_TOKENS}
    choice = {"index": 0, "finish_reason": finish, "message": message}
    return {"model": f"{body['model']}-2026", "choices": [choice], "usage": usage}


def make_caption(picture: str) -> str:
    words = " ".join(random.Random(picture).sample(_WORDS, 8))
    return f"The image shows a {words} in front of a house with {picture[:6]} on it, {LAST_WORDS}"


def find_picture(body: dict[str, Any]) -> str:
    """A name for the picture of a request."""
    for part in body["messages"][-1]["content"]:
        if part["type"] == "image_url":
            return hashlib.sha256(part["image_url"]["url"].encode()).hexdigest()
    raise AssertionError("a request without a picture")


def find_refused(body: dict[str, Any]) -> dict[str, str] | None:
    """The error with which newer models refuse what older ones want."""
    if "max_tokens" in body:
        message = "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."
        return {"message": message, "param": "max_tokens", "code": "unsupported_parameter"}
    if body.get("temperature", 1) != 1:
        message = "Unsupported value: 'temperature'. Only the default (1) value is supported."
        return {"message": message, "param": "temperature", "code": "unsupported_value"}
    return None


def draw(picture: str, shares: dict[str, float]) -> str:
    """The fault that a picture meets, or an empty text."""
    left = random.Random(picture + ",".join(shares)).random()
    for name, share in shares.items():
        left -= share
        if left < 0:
            return name
    return ""


def refuse(status: int, words: str, headers: dict[str, str] | None = None) -> web.Response:
    error = {"error": {"message": words, "type": "test", "code": None}}
    return web.json_response(error, status=status, headers=headers)


_WORDS = ("red", "green", "wooden", "large", "small", "old", "bright", "young", "quiet", "round")


async def _serve(port_file: Path, log: Path, faults: Faults) -> None:
    app = web.Application(client_max_size=64 << 20)
    teacher = Teacher(faults, log)
    app.router.add_post("/v1/chat/completions", teacher.answer)
    BatchServer(teacher.answer_line, faults.batch_s, teacher.note).add_routes(app)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    port_file.with_suffix(".new").write_text(str(port))
    port_file.with_suffix(".new").rename(port_file)
    await asyncio.Event().wait()


if __name__ == "__main__":
    settings = json.loads(sys.argv[3]) if len(sys.argv) > 3 else {}
    asyncio.run(_serve(Path(sys.argv[1]), Path(sys.argv[2]), Faults(**settings)))
