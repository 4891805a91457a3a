"""Paths, documentation and error answers of the HTTP interface. The ingress does the work."""

from collections.abc import Callable, Mapping
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import PlainTextResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from serve.api.document import BATCH_LINES, CAPTION_REQUEST, EVENTS, add_model_names
from serve.api.schemas import (
    CaptionAnswer,
    ChatAnswer,
    CompletionAnswer,
    ErrorAnswer,
    ModelCard,
    ModelList,
    ResponseAnswer,
    TokenList,
    Version,
)
from serve.api.spellings import Spellings
from serve.front.guard import Guard, GuardRules
from serve.front.metrics import count_request
from serve.front.refusals import Refusal, make_invalid_body_refusal
from serve.keys import Keyring
from serve.page.files import add_page
from serve.settings import ServeConfig

_Route = Callable[[FastAPI], Callable[[Any], Any]]


def _describe_errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorAnswer} for status in (400, 401, 405, 429, 431, *statuses)}


_GENERATING = _describe_errors(404, 408, 413, 415, 422, 503, 504)
_STREAMED: dict[int | str, dict[str, Any]] = {200: {"content": EVENTS}}
"""The answer to a request with `stream`."""

ROUTES: dict[str, _Route] = {
    "healthz": lambda app: app.get("/healthz", response_class=PlainTextResponse),
    "readyz": lambda app: app.get(
        "/readyz",
        response_class=PlainTextResponse,
        responses={503: {"description": "Engines are starting."}},
    ),
    "prometheus": lambda app: app.get(
        "/metrics", response_class=PlainTextResponse, responses=_describe_errors()
    ),
    "health": lambda app: app.get("/health", response_class=PlainTextResponse),
    "version": lambda app: app.get(
        "/version", response_model=Version, responses=_describe_errors()
    ),
    "models": lambda app: app.get(
        "/v1/models", response_model=ModelList, responses=_describe_errors()
    ),
    "model": lambda app: app.get(
        "/v1/models/{model:path}", response_model=ModelCard, responses=_describe_errors(404)
    ),
    "chat": lambda app: app.post(
        "/v1/chat/completions", response_model=ChatAnswer, responses=_GENERATING | _STREAMED
    ),
    "completions": lambda app: app.post(
        "/v1/completions", response_model=CompletionAnswer, responses=_GENERATING | _STREAMED
    ),
    "responses": lambda app: app.post(
        "/v1/responses", response_model=ResponseAnswer, responses=_GENERATING | _STREAMED
    ),
    "tokenize": lambda app: app.post("/tokenize", response_model=TokenList, responses=_GENERATING),
    "caption": lambda app: app.post(
        "/v1/caption",
        response_model=CaptionAnswer,
        responses=_GENERATING,
        openapi_extra=CAPTION_REQUEST,
    ),
    "captions": lambda app: app.post(
        "/v1/captions",
        response_class=StreamingResponse,
        responses=_GENERATING | {200: {"content": BATCH_LINES}},
    ),
}
"""Method of the ingress -> the decorator that makes it a route."""


def make_app(config: ServeConfig, keyring: Keyring) -> FastAPI:
    """Make the app with its guard, error answers and page. The routes are added to it later."""
    app = FastAPI(
        title="s4v",
        description="Captions and conversations about images.",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
    )
    app.add_exception_handler(RequestValidationError, _answer_invalid_body)
    app.add_exception_handler(HTTPException, _answer_http_error)
    app.add_middleware(Spellings)
    app.add_middleware(
        Guard,
        config=GuardRules(config.guard),
        keyring=keyring,
        on_end=count_request,
        capacity=config.ingress.max_ongoing_requests,
    )
    if config.guard.page:
        add_page(app)
    add_model_names(app, [model.id for model in config.models])
    return app


def find_rules(app: FastAPI) -> GuardRules:
    """Find the rules of an app's guard, which can be replaced while it works."""
    layers: list[Any] = list(app.user_middleware)
    [found] = [layer.kwargs["config"] for layer in layers if layer.cls is Guard]
    assert isinstance(found, GuardRules), "make_app gives the guard rules that can be replaced"
    return found


async def _answer_invalid_body(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return _build_response(make_invalid_body_refusal(error.errors()), {})


async def _answer_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    refusals = {
        404: Refusal(404, "not_found", "There is nothing here."),
        405: Refusal(405, "method_not_allowed", "This path does not take this method."),
    }
    other = Refusal(error.status_code, "bad_request", "The request cannot be read.")
    refusal = refusals.get(error.status_code, other)
    return _build_response(refusal, dict(error.headers or {}))


def _build_response(refusal: Refusal, headers: Mapping[str, str]) -> Response:
    return Response(refusal.body(), refusal.status, {**headers, **refusal.headers()})
