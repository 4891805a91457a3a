"""Limits on connections, in a real uvicorn with the protocol that Serve's proxy gets."""

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import httpx
import psutil
import pytest
import uvicorn

from serve.front.door import MAX_HEAD_BYTES, DoorProtocol
from serve.front.exchange import Receive, Scope, Send

KIB = 1 << 10


class HastyDoor(DoorProtocol):
    head_limit_s = 0.6
    max_connections = 300


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer with the length of the body."""
    size, more = 0, True
    while more:
        message = await receive()
        size, more = size + len(message.get("body", b"")), message.get("more_body", False)
    said = str(size).encode()
    length = (b"content-length", str(len(said)).encode())
    await send({"type": "http.response.start", "status": 200, "headers": [length]})
    await send({"type": "http.response.body", "body": said})


@contextlib.contextmanager
def listening(protocol: type[DoorProtocol]) -> Iterator[int]:
    settings = uvicorn.Config(echo, http=protocol, log_config=None, lifespan="off")
    server = uvicorn.Server(settings)
    with socket.socket() as plug:
        plug.bind(("127.0.0.1", 0))
        plug.listen(1024)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [plug]}, daemon=True)
        thread.start()
        yield plug.getsockname()[1]
        server.should_exit = True
        thread.join(20)


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    with listening(DoorProtocol) as found:
        yield found


@pytest.fixture(scope="module")
def hasty_port() -> Iterator[int]:
    with listening(HastyDoor) as found:
        yield found


def connect(port: int) -> socket.socket:
    found = socket.create_connection(("127.0.0.1", port))
    found.settimeout(20)
    return found


def read_all(connection: socket.socket) -> bytes:
    found = b""
    with contextlib.suppress(ConnectionResetError):
        while data := connection.recv(65536):
            found += data
    return found


HEAD = b"POST / HTTP/1.1\r\nHost: x\r\n"


@pytest.mark.parametrize(
    "start",
    [
        HEAD + b"X: ",
        b"GET /",
        b"GET / HTTP/1.1\r\nX",
        HEAD + b"Cookie: a=b; ",
    ],
    ids=["value", "path", "name", "cookie"],
)
def test_an_endless_head_is_cut_early(port: int, start: bytes) -> None:
    memory, sent = psutil.Process().memory_info().rss, len(start)
    with connect(port) as flood:
        flood.sendall(start)
        with contextlib.suppress(OSError):
            for _ in range(4096):
                flood.sendall(b"a" * (128 * KIB))
                sent += 128 * KIB
        assert sent < 16 << 20, "the connection was not cut"
    assert psutil.Process().memory_info().rss - memory < 32 << 20
    assert httpx.get(f"http://127.0.0.1:{port}/").status_code == 200


def test_an_endless_head_is_answered_before_it_is_cut(port: int) -> None:
    with connect(port) as flood:
        flood.sendall(HEAD + b"X: " + b"a" * MAX_HEAD_BYTES)
        said = read_all(flood)
    assert said.startswith(b"HTTP/1.1 431 ")
    assert b'"code": "headers_too_large"' in said


def test_many_headers_are_one_head(port: int) -> None:
    with connect(port) as flood:
        line = b"x-one: " + b"y" * 1000 + b"\r\n"
        with contextlib.suppress(OSError):
            flood.sendall(HEAD + line * (MAX_HEAD_BYTES // len(line) + 1))
        assert read_all(flood).startswith(b"HTTP/1.1 431 ")


def test_a_trailer_after_a_chunked_body_has_a_limit_too(port: int) -> None:
    chunked = HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n"
    with connect(port) as flood:
        flood.sendall(chunked + b"X: ")
        sent = 0
        with contextlib.suppress(OSError):
            for _ in range(1024):
                flood.sendall(b"a" * (128 * KIB))
                sent += 128 * KIB
    assert sent < 16 << 20


def test_heads_up_to_the_limit_and_large_bodies_pass(port: int) -> None:
    with httpx.Client(base_url=f"http://127.0.0.1:{port}") as client:
        for size in (0, 1, 100 * KIB, 5 << 20):
            answer = client.post("/", content=b"b" * size, headers={"x-long": "h" * 60 * KIB})
            assert (answer.status_code, answer.text) == (200, str(size))


def test_requests_in_one_packet_are_all_answered(port: int) -> None:
    one = HEAD + b"Content-Length: 70000\r\n\r\n" + b"b" * 70_000
    last = HEAD + b"Connection: close\r\nContent-Length: 2\r\n\r\nbb"
    with connect(port) as connection:
        connection.sendall(one * 3 + last)
        said = read_all(connection)
    assert said.count(b"HTTP/1.1 200 ") == 4
    assert said.endswith(b"2")


@pytest.mark.parametrize("start", [b"G", HEAD, HEAD + b"X: a"])
def test_a_slow_head_is_cut(hasty_port: int, start: bytes) -> None:
    since = time.monotonic()
    with connect(hasty_port) as slow:
        slow.sendall(start)
        said = read_all(slow)
    assert said.startswith(b"HTTP/1.1 408 ")
    assert b'"code": "head_too_slow"' in said
    assert 0.5 < time.monotonic() - since < 5


def test_a_byte_now_and_then_does_not_keep_a_head_open(hasty_port: int) -> None:
    since = time.monotonic()
    with connect(hasty_port) as slow, contextlib.suppress(OSError):
        slow.sendall(HEAD + b"X: ")
        for _ in range(100):
            time.sleep(0.05)
            slow.sendall(b"a")
    assert time.monotonic() - since < 4


def test_a_connection_that_says_nothing_is_closed(hasty_port: int) -> None:
    with connect(hasty_port) as silent:
        assert read_all(silent) == b""


def test_a_second_head_on_a_connection_has_its_own_limits(hasty_port: int) -> None:
    request = HEAD + b"Content-Length: 0\r\n\r\n"
    with connect(hasty_port) as connection:
        for _ in range(3):
            connection.sendall(request)
            assert connection.recv(4096).startswith(b"HTTP/1.1 200 ")
            time.sleep(0.3)  # less than the limit each, more than it together
        connection.sendall(HEAD)
        assert read_all(connection).startswith(b"HTTP/1.1 408 ")


def test_a_slow_body_is_not_the_doors_business(hasty_port: int) -> None:
    with connect(hasty_port) as connection:
        connection.sendall(HEAD + b"Content-Length: 2\r\nConnection: close\r\n\r\na")
        time.sleep(1.2)
        connection.sendall(b"b")
        assert read_all(connection).startswith(b"HTTP/1.1 200 ")


def test_idle_connections_hold_up_no_good_client(hasty_port: int) -> None:
    address = f"http://127.0.0.1:{hasty_port}/"
    idle = [connect(hasty_port) for _ in range(250)]
    try:
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: httpx.get(address).status_code, range(24)))
    finally:
        for connection in idle:
            connection.close()
    assert set(statuses) == {200}


def test_connections_above_the_limit_are_closed_at_once(hasty_port: int) -> None:
    time.sleep(0.2)
    with contextlib.ExitStack() as stack:
        many = [stack.enter_context(connect(hasty_port)) for _ in range(320)]
        since = time.monotonic()
        assert read_all(many[-1]) == b""
        assert time.monotonic() - since < 0.5


def test_a_request_that_is_no_http_is_answered_once(port: int) -> None:
    with connect(port) as connection:
        connection.sendall(b"\x16\x03\x01" * 30_000)
        assert read_all(connection).count(b"HTTP/1.1 ") == 1
