"""A TCP proxy in front of a store that disturbs answers as networks and overloaded stores do."""

import contextlib
import random
import socket
import threading
import time
from collections.abc import Iterator

SLOW_DOWN = (
    b"HTTP/1.1 503 Slow Down\r\nContent-Type: application/xml\r\nConnection: close\r\n"
    b"Content-Length: %d\r\n\r\n%s"
)
SLOW_DOWN_BODY = b"<Error><Code>SlowDown</Code><Message>Reduce your request rate.</Message></Error>"
FAILED = b"HTTP/1.1 500 Internal Server Error\r\nConnection: close\r\nContent-Length: 0\r\n\r\n"


class FaultProxy:
    """Forwards requests to an HTTP server; may refuse, cut off, drop or slow down the answers.

    Attributes:
        refused: Share of requests answered with 503 SlowDown, never forwarded.
        failed: Share of requests answered with a bare 500, never forwarded.
        dropped: Share of requests that are forwarded and whose answer is thrown away.
        cut: Share of answers that end in the middle.
        delay_s: Seconds before each answer.
        bytes_per_s: Speed of each answer; 0 means no limit.
        methods: Methods of the requests that faults and delays apply to.
        stripped: Headers, in lower case, that are removed from requests.
        down: Whether every connection is closed at once.
        fault_count: Number of faults so far.
        reads: Number of GET requests so far.
        read_bytes: Bytes of the answers to GET requests, headers included.
    """

    def __init__(self, target: str, seed: int = 0) -> None:
        self._target = target.removeprefix("http://").rsplit(":", 1)
        self._chance = random.Random(seed)
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.refused = self.failed = self.dropped = self.cut = self.delay_s = 0.0
        self.bytes_per_s = 0
        self.methods: tuple[bytes, ...] = (b"GET", b"PUT", b"HEAD", b"POST")
        self.stripped: tuple[bytes, ...] = ()
        self.down = False
        self.fault_count = self.reads = self.read_bytes = 0
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """Serve one request per connection; the answer carries `Connection: close`."""
        with contextlib.suppress(OSError), client:
            client.settimeout(60)
            if self.down:
                return
            request = _read_message(client)
            if not request:
                return
            method = request.split(b" ", 1)[0]
            fault = self._draw_fault(method)
            if fault == "refused":
                client.sendall(SLOW_DOWN % (len(SLOW_DOWN_BODY), SLOW_DOWN_BODY))
                return
            if fault == "failed":
                client.sendall(FAILED)
                return
            answer = b"".join(self._forward(request))
            self._count_read(request, answer)
            time.sleep(self.delay_s if method in self.methods else 0)
            if fault == "dropped":
                return
            if fault == "cut":
                answer = answer[: len(answer) * 2 // 3]
            self._send(client, answer)

    def _draw_fault(self, method: bytes) -> str | None:
        if method not in self.methods:
            return None
        with self._lock:
            draw = self._chance.random()
            for name in ("refused", "failed", "dropped", "cut"):
                share = getattr(self, name)
                if draw < share:
                    self.fault_count += 1
                    return name
                draw -= share
        return None

    def _count_read(self, request: bytes, answer: bytes) -> None:
        if request.startswith(b"GET "):
            with self._lock:
                self.reads += 1
                self.read_bytes += len(answer)

    def _forward(self, request: bytes) -> Iterator[bytes]:
        host, port = self._target
        with socket.create_connection((host, int(port))) as server:
            server.settimeout(60)
            server.sendall(_rewrite_headers(request, self.stripped))
            while part := server.recv(1 << 16):
                yield part

    def _send(self, client: socket.socket, answer: bytes) -> None:
        if not self.bytes_per_s:
            client.sendall(answer)
            return
        for at in range(0, len(answer), self.bytes_per_s):
            client.sendall(answer[at : at + self.bytes_per_s])
            time.sleep(1)


def _rewrite_headers(request: bytes, stripped: tuple[bytes, ...]) -> bytes:
    head, _, body = request.partition(b"\r\n\r\n")
    unwanted = (b"connection", *stripped)
    lines = [x for x in head.split(b"\r\n") if x.split(b":")[0].lower() not in unwanted]
    return b"\r\n".join([*lines, b"Connection: close"]) + b"\r\n\r\n" + body


def _read_message(peer: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        part = peer.recv(1 << 16)
        if not part:
            return b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    headers = dict(
        line.lower().split(b": ", 1) for line in head.split(b"\r\n")[1:] if b": " in line
    )
    if b"100-continue" in headers.get(b"expect", b""):
        peer.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    if b"chunked" in headers.get(b"transfer-encoding", b""):
        while not body.endswith(b"0\r\n\r\n") and not body.endswith(b"\r\n\r\n"):
            body += peer.recv(1 << 16)
    length = int(headers.get(b"content-length", b"0"))
    while len(body) < length:
        body += peer.recv(1 << 16)
    return head + b"\r\n\r\n" + body
