"""Paths, documents and errors of the HTTP interface; what they do is in the ingress."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from serve.api.document import BATCH_LINES, CAPTION_REQUEST, EVENTS, name_models
from serve.api.schemas import (
    CaptionAnswer,
    ChatAnswer,
    CompletionAnswer,
    ErrorAnswer,
    ModelCard,
    ModelList,
)
from serve.front.guard import Guard
from serve.front.metrics import count_request
from serve.front.refusals import Refusal, invalid
from serve.keys import Keyring
from serve.page.files import add_page
from serve.settings import ServeConfig

Route = Callable[[FastAPI], Callable[[Any], Any]]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer} for status in (400, 401, 405, 429, 431, *statuses)}


GENERATING = _errors(404, 408, 413, 415, 422, 503, 504)
STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": EVENTS}}
"""What is answered where a request says `stream`."""

ROUTES: dict[str, Route] = {
    "healthz": lambda app: app.get("/healthz", response_class=PlainTextResponse),
    "readyz": lambda app: app.get(
        "/readyz",
        response_class=PlainTextResponse,
        responses={503: {"description": "Engines are starting"}},
    ),
    "models": lambda app: app.get("/v1/models", response_model=ModelList, responses=_errors()),
    "model": lambda app: app.get(
        "/v1/models/{model}", response_model=ModelCard, responses=_errors(404)
    ),
    "chat": lambda app: app.post(
        "/v1/chat/completions", response_model=ChatAnswer, responses=GENERATING | STREAMED
    ),
    "completions": lambda app: app.post(
        "/v1/completions", response_model=CompletionAnswer, responses=GENERATING | STREAMED
    ),
    "caption": lambda app: app.post(
        "/v1/caption",
        response_model=CaptionAnswer,
        responses=GENERATING,
        openapi_extra=CAPTION_REQUEST,
    ),
    "captions": lambda app: app.post(
        "/v1/captions",
        response_class=StreamingResponse,
        responses=GENERATING | {200: {"content": BATCH_LINES}},
    ),
}
"""By the ingress's method."""


def make_app(config: ServeConfig, keyring: Keyring) -> FastAPI:
    """The app that the routes are put on, inside its guard."""
    app = FastAPI(
        title="s4v",
        description="Captions and conversations about images.",
        docs_url=None,
        redoc_url=None,
    )
    app.add_exception_handler(RequestValidationError, _not_valid)
    app.add_exception_handler(HTTPException, _not_found)
    app.add_middleware(Guard, config=config.guard, keyring=keyring, told=count_request)
    if config.guard.page:
        add_page(app)
    name_models(app, [model.id for model in config.models])
    return app


async def _not_valid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _answer(invalid(error.errors()), {})


async def _not_found(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = {
        404: Refusal(404, "not_found", "There is nothing here."),
        405: Refusal(405, "method_not_allowed", "This path does not take this method."),
    }
    found = known.get(
        error.status_code, Refusal(error.status_code, "bad_request", "The request cannot be read.")
    )
    return _answer(found, dict(error.headers or {}))


def _answer(refusal: Refusal, more: Mapping[str, str]) -> Response:
    return Response(refusal.body(), refusal.status, {**more, **refusal.headers()})
