"""The static page: three files of this package, read once and given out as they are."""

from collections.abc import Awaitable, Callable
from importlib import resources

from fastapi import FastAPI, Request
from fastapi.responses import Response

FILES = {
    "/": ("index.html", "text/html"),
    "/page/page.css": ("page.css", "text/css"),
    "/page/page.js": ("page.js", "text/javascript"),
}
"""Name and media type by path."""


def add_page(app: FastAPI) -> None:
    """Lets the app answer GET and HEAD of the page and its files."""
    folder = resources.files("serve.page")
    for path, (name, media_type) in FILES.items():
        endpoint = _endpoint((folder / name).read_bytes(), media_type)
        app.add_route(path, endpoint, include_in_schema=False)


def _endpoint(data: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def answer(_: Request) -> Response:
        # Small, and after an upgrade the old script must not ask the new endpoints.
        return Response(data, media_type=media_type, headers={"cache-control": "no-cache"})

    return answer
