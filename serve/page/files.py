"""The static page: three files of this package, read once and served unchanged."""

from collections.abc import Awaitable, Callable
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.responses import Response

_FILES = {
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
}
"""Path -> name of the file and its media type."""


def add_page(app: FastAPI) -> None:
    """Add the page and its files to the app, for GET and HEAD."""
    folder = resources.files("serve.page")
    for path, (name, media_type) in _FILES.items():
        endpoint = _make_endpoint((folder / name).read_bytes(), media_type)
        app.add_route(path, endpoint, include_in_schema=False)


def _make_endpoint(data: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        # The files are small, and after an upgrade no old script may call the new endpoints.
        return Response(data, media_type=media_type, headers={"cache-control": "no-cache"})

    return answer
