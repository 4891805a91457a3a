"""The small web server of a study: one page, its turns, its votes, its images.

Nothing of a request is ever part of a path: items and images have numbers. Images are decoded in a
guarded process and sent as JPEGs of their own.
"""

import asyncio
import hmac
import math
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import lru_cache
from importlib import resources

import uvicorn
from pydantic import Field
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response
from starlette.routing import Route

from s4v_core.annotation.ballot import Ballot
from s4v_core.annotation.questions import Question
from s4v_core.config import Config
from s4v_core.errors import ConfigError, S4VError, StorageError
from s4v_core.pages.frame import build_page
from s4v_core.pages.thumbnails import make_jpeg, open_thumbnail_decoder

IMAGE_SIDE_PX = 1280
_LONGEST_BODY = 10_000
_KEPT_IMAGES = 64
_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}

Handler = Callable[[Request], Awaitable[Response]]


class _VoteBody(Config):
    """The body of a vote."""

    rater: str
    """Name of the rater."""
    item: int
    """Number of the item."""
    choice: str
    """Value of the choice."""
    seconds: float = Field(0.0, allow_inf_nan=False)
    """Time that the rater looked at the item."""


class StudyPages:
    """Answers the page's requests.

    Args:
        key: Secret that every request must carry; None if only this machine can send any.
    """

    def __init__(self, ballot: Ballot, key: str | None) -> None:
        self._ballot, self._key = ballot, key
        self._page = _build_page(ballot.question)
        self._decoder = open_thumbnail_decoder(IMAGE_SIDE_PX)
        self._decoding = threading.Lock()
        # An instance's own cache, which ends with it.
        self._find_image = lru_cache(_KEPT_IMAGES)(self._make_image)

    def build_app(self) -> Starlette:
        """The application that serves the study."""
        # Other sites that a browser has open must not reach a local page by a name of their own.
        hosts = Middleware(TrustedHostMiddleware, allowed_hosts=[*_LOOPBACK, "[::1]"])
        return Starlette(routes=self._list_routes(), middleware=[] if self._key else [hosts])

    def _list_routes(self) -> list[Route]:
        return [
            Route("/", self._guard(self._show_page)),
            Route("/favicon.ico", _show_no_icon),
            Route("/question", self._guard(self._describe_question)),
            Route("/turn", self._guard(self._show_turn)),
            Route("/votes", self._guard(self._take_vote), methods=["POST"]),
            Route("/images/{item:int}/{number:int}", self._guard(self._show_image)),
        ]

    def _guard(self, handler: Handler) -> Handler:
        """`handler` behind the key of the study; its errors become answers."""

        async def answer(request: Request) -> Response:
            if self._key and not _has_key(request, self._key):
                return _refuse(403, "this study needs the link that its owner sent")
            try:
                return await handler(request)
            except StorageError as error:
                return _refuse(503, str(error))
            except (S4VError, ValueError) as error:
                return _refuse(400, str(error))

        return answer

    async def _show_page(self, request: Request) -> Response:
        return HTMLResponse(self._page, headers=_HEADERS)

    async def _describe_question(self, request: Request) -> Response:
        return JSONResponse(self._ballot.describe_question(), headers=_HEADERS)

    async def _show_turn(self, request: Request) -> Response:
        asked = request.query_params
        at = int(asked["at"]) if asked.get("at") else None
        return JSONResponse(self._ballot.find_turn(asked.get("rater", ""), at), headers=_HEADERS)

    async def _take_vote(self, request: Request) -> Response:
        body = await _read_body(request)
        vote = _VoteBody.model_validate_json(body)
        seconds = vote.seconds if math.isfinite(vote.seconds) else 0.0
        await asyncio.to_thread(self._ballot.vote, vote.rater, vote.item, vote.choice, seconds)
        return JSONResponse(self._ballot.find_turn(vote.rater), headers=_HEADERS)

    async def _show_image(self, request: Request) -> Response:
        item, number = request.path_params["item"], request.path_params["number"]
        found = await asyncio.to_thread(self._find_image, item, number)
        if isinstance(found, str):
            return _refuse(404, f"the image cannot be shown: {found}")
        return Response(found, media_type="image/jpeg", headers=_HEADERS)

    def _make_image(self, number: int, image: int) -> bytes | str:
        item = self._ballot.find_item(number)
        stored = self._ballot.question.read_image(item, image)
        with self._decoding:
            return make_jpeg(self._decoder, stored, quality=90)

    def close(self) -> None:
        with self._decoding:
            self._decoder.close()


def serve_ballot(
    ballot: Ballot,
    host: str,
    port: int,
    key: str,
    on_address: Callable[[str], object],
) -> None:
    """Serve a study until Ctrl-C.

    Args:
        port: 0 takes any free one.
        key: Secret that every request must carry, unless only this machine can send any.
        on_address: Called with the address of the page once it is open.

    Raises:
        ConfigError: The address is in use, or is none of this machine.
    """
    is_local = host in _LOOPBACK
    pages = StudyPages(ballot, None if is_local else key)
    listener = _listen(host, port)
    try:
        shown = f"[{host}]" if ":" in host else host
        base = f"http://{shown}:{listener.getsockname()[1]}/"
        on_address(base if is_local else f"{base}?key={key}")
        settings = uvicorn.Config(
            pages.build_app(),
            log_level="warning",
            access_log=False,
            server_header=False,
            timeout_graceful_shutdown=5,
            lifespan="off",
        )
        with suppress(KeyboardInterrupt):  # uvicorn raises it once the last answers are sent
            uvicorn.Server(settings).run(sockets=[listener])
    finally:
        listener.close()
        pages.close()


def _listen(host: str, port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"host, port: cannot listen on {host}:{port}: {error.strerror}; choose another --port"
        ) from error
    return listener


async def _show_no_icon(request: Request) -> Response:
    return Response(status_code=204)


def _has_key(request: Request, key: str) -> bool:
    return hmac.compare_digest(request.query_params.get("key", "").encode(), key.encode())


async def _read_body(request: Request) -> bytes:
    """The body of a request, if it is JSON and short.

    Raises:
        ConfigError: It is not.
    """
    # A form of another site cannot send this type.
    if request.headers.get("content-type", "").partition(";")[0] != "application/json":
        raise ConfigError("body: found no application/json")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _LONGEST_BODY:
            raise ConfigError(f"body: found more than {_LONGEST_BODY} bytes")
    return body


def _refuse(status: int, sentence: str) -> Response:
    return JSONResponse({"error": sentence}, status, headers=_HEADERS)


def _build_page(question: Question) -> str:
    """The page, which holds no item."""
    folder = resources.files(__package__)
    body = folder.joinpath("page.html").read_text("utf-8")
    return build_page(
        question.title,
        question.instruction,
        body,
        script=folder.joinpath("page.js").read_text("utf-8"),
        style=folder.joinpath("page.css").read_text("utf-8"),
        asks_server=True,
    )
