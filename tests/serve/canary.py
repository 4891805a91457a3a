"""Listeners that a fetch must not reach and servers that it may, on addresses of this machine."""

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psutil

T = TypeVar("T")
Reply = bytes | Callable[[asyncio.StreamWriter, str], Awaitable[None]]

SERVER = "127.0.0.9"
"""Address on which the servers of a test listen; canaries use all others."""


class Canary:
    """Listens on one port of every address of this machine except `SERVER`, and never answers.

    Connections are counted by taking them from the kernel's queue. They are there as soon as the
    client's `connect` returns, so none can be missed and no thread is needed.
    """

    def __init__(self, port: int = 0) -> None:
        self._sockets: list[socket.socket] = []
        self.addresses: list[str] = []
        self.port = port
        for address in ("127.0.0.1", *_local_addresses()):
            with contextlib.suppress(OSError):  # the address has disappeared meanwhile
                self._listen(address)

    def _listen(self, address: str) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.socket(family, socket.SOCK_STREAM)
        try:
            listener.bind((address, self.port))
            listener.listen(256)
        except OSError:
            listener.close()
            raise
        listener.setblocking(False)
        self.port = self.port or listener.getsockname()[1]
        self._sockets.append(listener)
        self.addresses.append(address)

    def connections(self) -> int:
        """Count the connections since the last call."""
        return sum(1 for listener in self._sockets for _ in _accept_all(listener))

    def close(self) -> None:
        for listener in self._sockets:
            listener.close()


def _accept_all(listener: socket.socket) -> Iterator[None]:
    with contextlib.suppress(BlockingIOError):
        while True:
            listener.accept()[0].close()
            yield


def _local_addresses() -> list[str]:
    """List the addresses of all interfaces, without those with a zone: a URL cannot name them."""
    found = {entry.address for card in psutil.net_if_addrs().values() for entry in card}
    chosen = {text for text in found if "%" not in text and _is_ip(text)}
    return sorted(chosen - {"127.0.0.1", SERVER})


def _is_ip(text: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            return bool(socket.inet_pton(family, text))
    return False


class WatchedLoop(asyncio.SelectorEventLoop):
    """Records every address that anything in the loop tries to connect to, and every DNS query."""

    def __init__(self) -> None:
        super().__init__()
        self.attempts: list[str] = []

    async def sock_connect(self, sock: socket.socket, address: Any) -> None:
        self.attempts.append(address[0])
        await super().sock_connect(sock, address)

    async def getaddrinfo(self, host: Any, *args: Any, **options: Any) -> Any:
        self.attempts.append(host)
        return await super().getaddrinfo(host, *args, **options)


def run_watched(work: Coroutine[Any, Any, T]) -> tuple[T, list[str]]:
    """Run the work. Returns its result and the addresses that were tried."""
    with asyncio.Runner(loop_factory=WatchedLoop) as runner:
        found = runner.run(work)
        loop = runner.get_loop()
        assert isinstance(loop, WatchedLoop)
        return found, loop.attempts


@dataclass
class Server:
    """A scripted web server.

    Attributes:
        heads: Request line and headers of every request that it received.
    """

    port: int
    heads: list[str] = field(default_factory=list)


@contextlib.asynccontextmanager
async def serving(
    reply: Reply, tls: ssl.SSLContext | None = None, port: int = 0
) -> AsyncIterator[Server]:
    """Run a server that answers every request with `reply`: bytes, or a function that writes."""
    running: set[asyncio.Task[Any]] = set()

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        running.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin1")
            server.heads.append(head)
            if isinstance(reply, bytes):
                writer.write(reply)
            else:
                await reply(writer, head.split(" ")[1])
            await writer.drain()
        except (OSError, EOFError, asyncio.CancelledError):
            pass  # the other side has gone, or the test is over
        finally:
            writer.close()

    listener = await asyncio.start_server(answer, SERVER, port, ssl=tls)
    server = Server(listener.sockets[0].getsockname()[1])
    try:
        yield server
    finally:
        listener.close()
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)


def response(body: bytes, *headers: str, status: str = "200 OK", length: bool = True) -> bytes:
    """Build a whole answer; without `length` it ends where the connection ends."""
    lines = [f"HTTP/1.1 {status}", *headers, "Connection: close"]
    if length:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode() + body
