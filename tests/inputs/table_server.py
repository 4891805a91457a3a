"""A web server that answers as the hosts of an old table of URLs do, as a process of its own.

`python -m tests.inputs.table_server FOLDER` writes the ports of its three sites to FOLDER: one that
answers by the path of the URL, one with a certificate that nobody signed, and one without ranges.
"""

import asyncio
import datetime
import json
import ssl
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import web

ROOT = Path(__file__).resolve().parents[2]

SEEN: Counter[str] = Counter()
"""Requests by path, and the highest number in flight as `most`."""


@dataclass(frozen=True)
class Ports:
    """Addresses of the server's sites."""

    plain: str
    tls: str
    folder: Path


@contextmanager
def run_table_server(folder: Path) -> Iterator[Ports]:
    """Run the server; files below `folder` are served without ranges as `/files/NAME`."""
    command = [sys.executable, "-m", "tests.inputs.table_server", str(folder)]
    server = subprocess.Popen(command, cwd=ROOT)
    try:
        while not (folder / "ports.json").exists():
            assert server.poll() is None
            time.sleep(0.05)
        plain, tls = json.loads((folder / "ports.json").read_text())
        yield Ports(f"http://127.0.0.1:{plain}", f"https://localhost:{tls}", folder)
    finally:
        server.terminate()
        server.wait()


async def answer(request: web.Request) -> web.StreamResponse:
    """Answer `/KIND/NUMBER`."""
    kind = request.match_info["kind"]
    SEEN[request.path] += 1
    SEEN["in flight"] += 1
    SEEN["most"] = max(SEEN["most"], SEEN["in flight"])
    try:
        return await _answer(kind, request)
    finally:
        SEEN["in flight"] -= 1


async def _answer(kind: str, request: web.Request) -> web.StreamResponse:
    number = int(request.match_info["number"])
    if kind.isdigit():
        return web.Response(status=int(kind), body=b"no" * 50)
    if kind in ("slow", "hang"):
        await asyncio.sleep(60)
    if kind == "far":
        await asyncio.sleep(0.1)
    if kind == "loop":
        raise web.HTTPFound(f"/loop/{number + 1}")
    if kind == "moved":
        raise web.HTTPFound(f"/ok/{number}")
    if kind == "nowhere":
        raise web.HTTPFound(f"http://no-{number}.invalid/x.jpg")
    if kind == "elsewhere":
        raise web.HTTPFound("file:///etc/hostname")
    if kind == "html":
        return web.Response(text="<html>parked</html>", content_type="text/html")
    if kind in OPT_OUTS:
        return web.Response(body=make_body(number), headers={"X-Robots-Tag": OPT_OUTS[kind]})
    if kind == "busy":  # well again at the second request
        status = 200 if SEEN[request.path] > 1 else 503
        return web.Response(status=status, body=make_body(number), headers={"Retry-After": "0"})
    if kind == "later":
        return web.Response(status=429, headers={"Retry-After": "3600"})
    if kind in ("endless", "cut", "reset"):
        return await _misbehave(kind, request)
    if kind == "big":
        return web.Response(body=bytes(5 << 20))
    if kind == "agent":
        return web.Response(text=request.headers["User-Agent"])
    return web.Response(body=make_body(number))


OPT_OUTS = {"noai": "noai", "ours": "s4v: noindex", "others": "otherbot: noai", "all": "all"}


async def _misbehave(kind: str, request: web.Request) -> web.StreamResponse:
    transport: Any = request.transport
    if kind == "reset":
        transport.abort()
        return web.Response()
    found = web.StreamResponse(headers={"Content-Length": "1000"} if kind == "cut" else {})
    await found.prepare(request)
    await found.write(b"x" * 100)
    while kind == "endless":
        await found.write(bytes(1 << 16))
    transport.abort()
    return found


def make_body(number: int) -> bytes:
    """The image of that number; any bytes do for what reads no pixels."""
    return f"image {number}".encode() * 100


async def tell_counts(request: web.Request) -> web.Response:
    return web.json_response(SEEN)


async def send_file(request: web.Request) -> web.Response:
    """Send a whole file, whatever range was asked for."""
    SEEN[request.path] += 1
    folder: Path = request.app["folder"]
    return web.Response(body=(folder / request.match_info["name"]).read_bytes())


def _make_certificate(folder: Path) -> ssl.SSLContext:
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
    builder = builder.not_valid_before(now).not_valid_after(now + datetime.timedelta(days=1))
    pem = builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
    secret = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    (folder / "tls.pem").write_bytes(pem + secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    return context


async def _serve(folder: Path) -> None:
    app = web.Application()
    app["folder"] = folder
    app.router.add_get("/counts", tell_counts)
    app.router.add_get("/files/{name}", send_file)
    app.router.add_get("/{kind}/{number}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    ports = []
    for context in (None, _make_certificate(folder)):
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context, backlog=1024)
        await site.start()
        server: Any = site._server
        ports.append(server.sockets[0].getsockname()[1])
    partial = folder / "ports.partial"
    partial.write_text(json.dumps(ports))
    partial.rename(folder / "ports.json")
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve(Path(sys.argv[1])))
