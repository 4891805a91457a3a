"""Other spellings of the routes: HEAD where GET is, and a slash at the end of a path."""

from serve.front.exchange import App, Message, Receive, Scope, Send


class Spellings:
    """ASGI middleware behind the guard, which has checked the request as it was spelled.

    A redirect would name the Host header of the client, and clients do not send a body twice.
    """

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path, method = scope["path"], scope["method"]
        if len(path) > 1 and path.endswith("/"):
            scope = {**scope, "path": path[:-1]}
        if method == "HEAD":
            scope, send = {**scope, "method": "GET"}, _drop_body(send)
        await self._app(scope, receive, send)


def _drop_body(send: Send) -> Send:
    async def send_without_body(message: Message) -> None:
        if message["type"] == "http.response.body":
            message = {**message, "body": b""}
        await send(message)

    return send_without_body
