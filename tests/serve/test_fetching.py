"""Images by URL: tricks reach no internal address, and an honest server's image arrives.

Refusals are proved twice: canaries on every address of this machine count connections, and the
event loop records every address that is tried, reachable or not.
"""

import asyncio
import datetime
import gzip
import ipaddress
import random
import re
import socket
import ssl
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from s4v_core.errors import ConfigError
from serve.front import fetching
from serve.front.fetching import PORTS, FetchConfig, Fetcher, is_public, resolve_host
from serve.front.refusals import Refusal
from tests.conftest import photo
from tests.serve.canary import (
    SERVER,
    Canary,
    Reply,
    Server,
    response,
    run_watched,
    serving,
)

PNG = photo(1, (64, 48), "PNG")
OPEN = FetchConfig(enabled=True, any_host=True, http=True)
IP = re.compile(r"\d+\.\d+\.\d+|[0-9a-f]*:[0-9a-f]*:|0x[0-9a-f]{6}", re.IGNORECASE)

NAMES = {
    "loop.example.org": ["127.0.0.1"],
    "loop2.example.org": ["127.99.1.2"],
    "loop6.example.org": ["::1"],
    "zero.example.org": ["0.0.0.0"],
    "zero6.example.org": ["::"],
    "ten.example.org": ["10.0.0.1"],
    "b.example.org": ["172.16.0.1"],
    "c.example.org": ["192.168.1.1"],
    "shared.example.org": ["100.64.0.1"],
    "metadata.example.org": ["169.254.169.254"],
    "metadata.google.internal": ["169.254.169.254"],
    "metadata-aws6.example.org": ["fd00:ec2::254"],
    "metadata-oracle.example.org": ["192.0.0.192"],
    "metadata-alibaba.example.org": ["100.100.100.200"],
    "metadata-azure.example.org": ["168.63.129.16"],
    "unique.example.org": ["fd00::2"],
    "link6.example.org": ["fe80::1"],
    "zone6.example.org": ["fe80::1%lo"],
    "site6.example.org": ["fec0::1"],
    "mapped.example.org": ["::ffff:127.0.0.1"],
    "mapped-hex.example.org": ["::ffff:a9fe:a9fe"],
    "compatible.example.org": ["::127.0.0.1"],
    "nat64.example.org": ["64:ff9b::127.0.0.1"],
    "nat64-local.example.org": ["64:ff9b:1::808:808"],
    "sixtofour.example.org": ["2002:7f00:1::1"],
    "teredo.example.org": ["2001:0:808:808:0:0:80ff:fffe"],
    "multicast.example.org": ["224.0.0.1"],
    "multicast6.example.org": ["ff02::1"],
    "reserved.example.org": ["240.0.0.1"],
    "broadcast.example.org": ["255.255.255.255"],
    "documentation6.example.org": ["2001:db8::1"],
    "mixed.example.org": ["93.184.215.14", "127.0.0.1"],
    "mixed6.example.org": ["2606:2800:21f::1", "::1"],
    "late.example.org": [*(f"93.184.215.{n}" for n in range(1, 60)), "10.0.0.1"],
    "nothing.example.org": [],
    "nonsense.example.org": ["127.1"],
    "words.example.org": ["localhost"],
    # A stub resolver may know these; the port of a name's check is not to be trusted either.
    "localhost": ["127.0.0.1"],
    "localhost.localdomain": ["127.0.0.1"],
    "127.0.0.1.nip.io": ["127.0.0.1"],
    "xn--bcher-kva.example": ["127.0.0.1"],
}
"""Names of the injected resolver. Every other name resolves to 127.0.0.1, so that a gap shows."""

INNER = [
    # Loopback, also in digits and full stops of other scripts
    "http://127.0.0.1/", "https://127.0.0.1/", "http://127.0.0.1./", "http://127.127.127.127/",
    "http://0.0.0.0/", "https://127.0.0.1:443/", "http://127.0.0.1:80/", "http://①②⑦.⓪.⓪.①/",
    "http://127。0。0。1/", "http://127．0．0．1/", "http://１２７.0.0.1/",  # noqa: RUF001 - just so
    "http://127.0.0.¹/", "http://127.0.0.1#@public.example.org/",
    "http://127.0.0.1?@public.example.org/",
    # IPv6, and IPv4 inside it
    "http://[::1]/", "https://[::1]/", "http://[::]/", "http://[0:0:0:0:0:0:0:1]/",
    "http://[0000::0001]/", "http://[::ffff:127.0.0.1]/", "http://[::ffff:7f00:1]/",
    "http://[::FFFF:169.254.169.254]/", "http://[::127.0.0.1]/", "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::10.0.0.1]/", "http://[2002:7f00:1::]/", "http://[2002:a9fe:a9fe::1]/",
    "http://[2001:0:4136:e378:8000:63bf:80ff:fffe]/", "http://[fd00::2]/", "http://[fe80::1]/",
    "http://[fec0::1]/", "http://[ff02::1]/",
    # Private, shared, link-local, metadata, documentation, multicast, reserved
    "http://10.0.0.1/", "http://172.31.255.255/", "http://192.168.0.1/", "http://100.64.0.1/",
    "http://169.254.169.254/latest/meta-data/", "http://100.100.100.200/latest/",
    "http://192.0.0.192/opc/v2/", "http://168.63.129.16/machine", "http://192.0.2.2/",
    "http://198.18.0.1/", "http://224.0.0.1/", "http://239.255.255.250/", "http://240.0.0.1/",
    "http://255.255.255.255/",
    # Names without a public address
    *(f"https://{name}/image.png" for name in NAMES if name != "localhost"),
    "http://loop.example.org./", "http://loop。example。org/", "http://Loop.Example.ORG/",
    "http://bücher.example/", "http://unknown.example.org/",
]  # fmt: skip
"""Well formed, and refused for the address behind them."""

MALFORMED = [
    # Numbers that some read as loopback or metadata
    "http://127.1/", "http://127.0.1/", "http://127.1./", "http://127/", "http://0/",
    "http://0x7f.1/", "http://0x7f.0.0.1/", "http://0x7f000001/", "http://0X7F.0.0.0X1/",
    "http://2130706433/", "http://2130706433./", "http://017700000001/", "http://0177.0.0.1/",
    "http://0177.0.0.01/", "http://127.0.0.01/", "http://00000177.1/", "http://127.0x1/",
    "http://4294967295/", "http://4429673473/", "http://256.256.256.256/", "http://127.0.0.1.1/",
    "http://127.0.0.1%00/", "http://%31%32%37.0.0.1/", "http://127%2e0%2e0%2e1/",
    "http://1.0x7f/", "http://١٢٧.0.0.1/", "http://0ₓ7f.1/", "http://2852039166/latest/",
    "http://0xA9FEA9FE/", "http://0251.0376.0251.0376/", "http://169.254.43518/",
    # IPv6 with zones, or none
    "http://[fe80::1%25lo]/", "http://[fe80::1%lo]/", "http://[::1%25lo]/", "http://[v1.x]/",
    "http://[2606:4700::1111%25lo]/", "http://[::1/", "http://::1/", "http://[127.0.0.1]/",
    "http://[]/", "http://[::1]x/", "http://x[::1]/",
    # Names that are none, or have no dot
    "http://localhost/", "https://localhost/image.png", "http://localhost./", "http://LOCALHOST/",
    "http://ⓛⓞⓒⓐⓛⓗⓞⓢⓣ/", "http://l\u00adocalhost/", "http://metadata/computeMetadata/v1/",
    "http://loop.example.org../", "http://.example.org/", "http://a..b.org/", "http://*.org/",
    "http://-a.example.org/", "http://a-.example.org/", f"http://{'a' * 64}.example.org/",
    f"http://{'a.' * 130}org/", "http://loop\u200b.example.org/", "http://ex℀mple.org/",
    # User names, and an @ that one parser takes for another thing (CVE-2026-25960)
    "http://public.example.org@127.0.0.1/", "http://user:key@public.example.org/",
    "http://@public.example.org/", "http://:@public.example.org/", "http://a@b@127.0.0.1/",
    "http://public.example.org:80@127.0.0.1/", "http://public.example.org%40127.0.0.1/",
    "http://public.example.org%2540@127.0.0.1/", "http://127.0.0.1:80@public.example.org/",
    "http://127.0.0.1%2f@public.example.org/", "http://127.0.0.1\\@public.example.org/",
    "http://public.example.org\\@127.0.0.1/", "http:\\\\127.0.0.1\\", "http:/\\127.0.0.1/",
    "http://127.0.0.1\\.public.example.org/", "http://127.0.0.1;@public.example.org/",
    "http://public.example.org&@127.0.0.1#@public.example.org/",
    "http://public.example.org;@127.0.0.1/", "http://127.0.0.1,public.example.org/",
    "http://127.0.0.1 public.example.org/",
    # Control characters and spaces: CRLF would write headers of another request
    "http://public.example.org/\r\nHost: inner\r\n\r\n", "http://public.example.org\r\n/",
    " http://127.0.0.1/", "http://127.0.0.1/ ", "\thttp://127.0.0.1/", "ht\ntp://127.0.0.1/",
    "http://127.0.\n0.1/", "http://public.example.org/a b", "http://public.example.org/\x00",
    "http://public.example.org\x00.png/", "http://public.example.org/\x7f",
    "http://public.example.org/\x85", "http://public.example.org/\u2028",
    "http://public.example.org/\ufeff", "http://public.example.org/\u202egnp",
    "http://public.example.org/\ud800", "http://public.example.org%0d%0a/",
    "http://public.example.org%09/", "http://public.example.org%23@x/",
    # Ports
    "http://public.example.org:22/", "http://public.example.org:6379/",
    "http://public.example.org:8265/", "https://public.example.org:80/",
    "http://public.example.org:443/", "https://public.example.org:0/",
    "https://public.example.org:65536/", "https://public.example.org:-443/",
    "https://public.example.org:x/", "https://public.example.org:443:22/",
    # Schemes
    "file:///etc/passwd", "file://localhost/etc/passwd", "FILE:///etc/passwd", "ftp://127.0.0.1/",
    "gopher://127.0.0.1:6379/_INFO", "dict://127.0.0.1:11211/stat", "ldap://127.0.0.1/",
    "tftp://127.0.0.1/", "jar:http://127.0.0.1!/", "data:text/plain,hello", "data:",
    "data:image/png;base64,AAAA", "javascript:alert(1)", "ws://127.0.0.1/",
    "unix:/var/run/docker.sock", "http+unix://%2Frun%2Fdocker.sock/", "s3://bucket/key",
    "netdoc:///etc/passwd", "view-source:http://127.0.0.1/", "url:http://127.0.0.1/",
    "blob:http://127.0.0.1/",
    # Hardly URLs
    "", "/", "//127.0.0.1/", "///127.0.0.1/", "127.0.0.1", "127.0.0.1:80", "localhost", "http:",
    "http://", "http:///", "http:///127.0.0.1/", "http:127.0.0.1", "http:/127.0.0.1/", "http://?",
    "http://#", "://127.0.0.1/", "http://http://127.0.0.1/", "?",
    "http://public.example.org/" + "a" * 5000,
]  # fmt: skip
"""Refused before any name is resolved."""

BAD_URLS = INNER + MALFORMED


@pytest.fixture(scope="module")
def canary() -> Iterator[Canary]:
    listeners = Canary()
    yield listeners
    listeners.close()


async def resolve(host: str, port: int) -> list[str]:
    return NAMES.get(host, ["127.0.0.1"])


def only_server(address: str) -> bool:
    return address == SERVER or is_public(address)


def refusal_of(fetcher: Fetcher, url: str) -> tuple[Refusal, list[str]]:
    """Fetch, and return the refusal and the addresses that were tried. Checks that it takes less
    than a second and that its text contains no address.

    A refusal waits for nothing. A second of wall time with little CPU time is due to a busy
    machine, and a try that is slow once and fast the next time is due to other work, such as a
    garbage collection; so only two slow tries in a row fail.
    """

    async def attempt() -> Refusal:
        with pytest.raises(Refusal) as found:
            await fetcher.fetch(url)
        return found.value

    for _ in range(2):
        started, worked = time.perf_counter(), time.process_time()
        refusal, attempts = run_watched(attempt())
        if time.perf_counter() - started < 1 or time.process_time() - worked < 0.2:
            break
    else:
        raise AssertionError(f"{url!r}: over a second, twice")
    assert_says_nothing(refusal)
    return refusal, attempts


def assert_says_nothing(refusal: Refusal) -> None:
    said = f"{refusal} {refusal.body().decode()} {refusal.headers()}"
    assert not IP.search(said), said
    assert "example" not in said, said
    assert refusal.__suppress_context__ or refusal.__context__ is None


@pytest.fixture(scope="module")
def fetchers(canary: Canary) -> list[Fetcher]:
    """Two fetchers: one with the real ports, one with the canary's port in their place."""
    inner = {"https": canary.port, "http": canary.port}
    return [Fetcher(OPEN, resolve, ports=ports) for ports in (PORTS, inner)]


@pytest.fixture(scope="module")
def redirected(canary: Canary) -> Fetcher:
    """A fetcher that may reach `SERVER`, on the port that canaries have on all other addresses."""
    ports = {"https": canary.port, "http": canary.port}
    return Fetcher(OPEN, resolve, only_server, ports)


def test_the_table_is_long_enough() -> None:
    assert len(set(BAD_URLS)) == len(BAD_URLS) >= 80


@pytest.mark.parametrize("url", BAD_URLS, ids=ascii)
def test_a_trick_reaches_nothing(url: str, canary: Canary, fetchers: list[Fetcher]) -> None:
    for fetcher in fetchers:
        refusal, attempts = refusal_of(fetcher, url)
        assert (refusal.status, refusal.code) == (400, "url_not_allowed")
        assert attempts == []
    assert canary.connections() == 0


async def never(host: str, port: int) -> list[str]:
    raise AssertionError("looked up")


@pytest.fixture(scope="module")
def gullible(canary: Canary) -> Fetcher:
    """A fetcher that takes every address for public."""
    return Fetcher(OPEN, never, lambda _: True, {"https": canary.port, "http": canary.port})


@pytest.mark.parametrize("url", MALFORMED, ids=ascii)
def test_a_malformed_url_is_not_even_looked_up(url: str, canary: Canary, gullible: Fetcher) -> None:
    refusal, attempts = refusal_of(gullible, url)
    assert (refusal.code, attempts, canary.connections()) == ("url_not_allowed", [], 0)


def _fits_a_header(url: str) -> bool:
    return not set(url) & set("\r\n\0") and "\ud800" not in url


@pytest.mark.parametrize("url", [*filter(_fits_a_header, BAD_URLS)], ids=ascii)
def test_a_redirect_to_a_trick_reaches_nothing(
    url: str, canary: Canary, redirected: Fetcher
) -> None:
    head = f"HTTP/1.1 302 Found\r\nLocation: {url}\r\nContent-Length: 0\r\n\r\n"

    async def attempt() -> tuple[Refusal, int]:
        async with serving(head.encode(), port=canary.port) as server:
            with pytest.raises(Refusal) as found:
                await redirected.fetch(f"http://{SERVER}/start")
            return found.value, len(server.heads)

    (refusal, requests), attempts = run_watched(attempt())
    assert_says_nothing(refusal)
    # A target without scheme and host is a path of the same server, followed up to the limit.
    assert (refusal.code, requests) in {("url_not_allowed", 1), ("url_failed", 4)}
    assert set(attempts) == {SERVER}
    assert canary.connections() == 0


def test_without_the_address_check_every_canary_is_reached(canary: Canary) -> None:
    """This proves that the canaries notice connections."""
    ports = {"https": canary.port, "http": canary.port}
    config = OPEN.replace(limit_s=0.1)
    for address in canary.addresses:
        fetcher = Fetcher(config, resolve, lambda _: True, ports)
        host = f"[{address}]" if ":" in address else address
        refusal, attempts = refusal_of(fetcher, f"http://{host}/")
        assert (refusal.code, attempts) == ("url_timeout", [address])
        assert canary.connections() == 1
    refusal, attempts = refusal_of(fetcher, "https://loop.example.org./")
    assert (attempts, canary.connections()) == (["127.0.0.1"], 1)


def test_no_mixture_of_tricks_reaches_anything(canary: Canary, fetchers: list[Fetcher]) -> None:
    """5,000 URLs drawn from pieces: refused each, with no other error and no connection."""
    chance = random.Random(20)
    pieces = [
        *("http", "https", ":", "//", "/", "\\", "@", "?", "#", "[", "]", "%", "%25", "%00", "."),
        *("127.0.0.1", "::1", "0x7f", "1", "localhost", "loop.example.org", "xn--", "xn--a", "。"),
        *("\n", "\t", " ", "ß", "①", "\u0301", "\u202e", "\ud800", ":443", ":80", "-", "_", "é"),
        *("http://", "https://", "file:", "..", ";", "&", "a" * 63, "\x00", "\u200d"),
        *("\U0001d7cf", "\u0660"),  # digits, one bold and one Arabic
    ]

    async def attempt() -> None:
        for _ in range(5000):
            url = chance.choice(["", "http://", "https://"])
            url += "".join(chance.choices(pieces, k=chance.randint(1, 7)))
            with pytest.raises(Refusal) as found:
                await chance.choice(fetchers).fetch(url)
            assert found.value.code == "url_not_allowed", ascii(url)

    assert run_watched(attempt())[1] == []
    assert canary.connections() == 0


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("192.0.1.1", True),
        ("2606:4700::1111", True),
        ("::ffff:8.8.8.8", True),
        ("64:ff9b::8.8.8.8", True),
        ("2002:808:808::1", True),
        ("2001:0:808:808::f7f7:f7f7", True),
        ("64:ff9b::168.63.129.16", False),
        ("::ffff:100.64.0.1", False),
        ("2001:0:a00:1::f7f7:f7f7", False),
        ("2001:0:808:808::80ff:fffe", False),
        ("192.88.99.1", False),
        ("3fff::1", False),
        ("5f00::1", False),
        ("4000::1", False),
        ("::ffff:0:8.8.8.8", False),
        ("2606:4700::1111%lo", False),
        ("", False),
        ("8.8.8.8 ", False),
        ("08.8.8.8", False),
        ("8.8.8.8/32", False),
    ],
)
def test_an_address_is_public_only_with_all_that_it_carries(address: str, public: bool) -> None:
    assert is_public(address) is public


@pytest.mark.parametrize(("name", "addresses"), NAMES.items(), ids=ascii)
def test_no_name_of_the_table_has_public_addresses_only(name: str, addresses: list[str]) -> None:
    assert not (addresses and all(map(is_public, addresses)))


# Configuration


def test_by_default_no_url_is_fetched(canary: Canary) -> None:
    fetcher = Fetcher(FetchConfig(), resolve, lambda _: True, {"https": canary.port, "http": 0})
    refusal, attempts = refusal_of(fetcher, "https://loop.example.org/a.png")
    assert (refusal.status, refusal.code) == (400, "urls_off")
    assert (attempts, canary.connections()) == ([], 0)


@pytest.mark.parametrize(
    "values",
    [
        {"enabled": True},
        {"enabled": True, "any_host": True, "hosts": ("images.example.org",)},
        *(
            {"enabled": True, "hosts": (host,)}
            for host in (
                *("*", "*.org", "", "https://a.org", "a.org/", "a.org:443", "a.org.", "A.org"),
                *("bücher.example", "127.0.0.1", "[::1]", "u@a.org", "a.*.org", "**.a.org", "org"),
            )
        ),
        {"max_mib": 0},
        {"limit_s": 0},
        {"max_redirects": -1},
        {"port": 1},
    ],
    ids=str,
)
def test_a_configuration_that_makes_no_sense_is_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        FetchConfig(**values)


@pytest.mark.parametrize(
    ("host", "listed"),
    [
        ("images.example.org", True),
        ("IMAGES.example.org", True),
        ("images.example.org.", True),
        ("images。example。org", True),
        ("a.cdn.example.net", True),
        ("b.a.cdn.example.net.", True),
        ("cdn.example.net", False),
        ("acdn.example.net", False),
        ("images.example.org.evil.org", False),
        ("evil-images.example.org", False),
        ("a.images.example.org", False),
        ("example.org", False),
        ("evil.org/images.example.org", False),
        ("evil.org?images.example.org", False),
        ("evil.org#images.example.org", False),
        ("evil.org%2fimages.example.org", False),
        ("images.example.org..", False),
        (SERVER, False),
    ],
)
def test_only_listed_hosts_are_looked_up(host: str, listed: bool) -> None:
    asked: list[str] = []

    async def note(name: str, port: int) -> list[str]:
        asked.append(name)
        return []

    hosts = ("images.example.org", "*.cdn.example.net")
    fetcher = Fetcher(OPEN.replace(any_host=False, hosts=hosts), note)
    refusal, attempts = refusal_of(fetcher, f"https://{host}")
    assert refusal.code == "url_not_allowed"
    assert len(asked) == listed
    assert attempts == []


def test_plain_http_must_be_asked_for() -> None:
    fetcher = Fetcher(OPEN.replace(http=False), never)
    for url in ("http://a.example.org/", "http://a.example.org:443/", "https://a.example.org:80/"):
        assert refusal_of(fetcher, url)[0].code == "url_not_allowed"


# The same machinery, allowed to reach one server


async def to_server(host: str, port: int) -> list[str]:
    return [SERVER]


def fetched(
    reply: Reply,
    url: str = "http://images.example.org/a.png",
    resolve: Callable[[str, int], Awaitable[list[str]]] = to_server,
    **changes: Any,
) -> tuple[bytes | Refusal, Server]:
    """Fetch from a plain server and check that only its address is ever tried."""

    async def attempt() -> tuple[bytes | Refusal, Server]:
        async with serving(reply) as server:
            ports = {"http": server.port, "https": 1}
            fetcher = Fetcher(OPEN.replace(**changes), resolve, only_server, ports)
            try:
                return await fetcher.fetch(url), server
            except Refusal as refusal:
                assert_says_nothing(refusal)
                return refusal, server

    found, attempts = run_watched(attempt())
    assert set(attempts) <= {SERVER}
    return found


def code(found: bytes | Refusal) -> tuple[int, str]:
    assert isinstance(found, Refusal), "fetched"
    return found.status, found.code


@pytest.mark.parametrize("length", [True, False])
def test_an_image_is_fetched_byte_for_byte(length: bool) -> None:
    body, server = fetched(
        response(PNG, "Content-Type: image/png", length=length),
        "http://Images.Example.org./a%20b%2f/../c.png?x=%2F&y=%41+%2B&=;#fragment",
    )
    assert body == PNG
    (head,) = server.heads
    # As it was signed: not a byte of it is put in another form.
    assert head.startswith("GET /a%20b%2f/../c.png?x=%2F&y=%41+%2B&=; HTTP/1.1\r\n")
    assert f"Host: images.example.org:{server.port}\r\n" in head
    assert "Accept-Encoding: identity\r\n" in head
    assert not re.search("cookie|authorization|referer|python|aiohttp", head, re.IGNORECASE)


@pytest.mark.parametrize(
    ("rest", "asked"),
    [
        ("", "/"),
        ("/", "/"),
        ("?x", "/?x"),
        ("#x", "/"),
        ("/ä/ö?ü=ß", "/%C3%A4/%C3%B6?%C3%BC=%C3%9F"),
        ("/%", "/%"),
        ('/"<>{}|^`', '/"<>{}|^`'),
        ("//127.0.0.1/@", "//127.0.0.1/@"),
        ("/http://127.0.0.1/", "/http://127.0.0.1/"),
        ("/?url=http://a:b@c", "/?url=http://a:b@c"),
    ],
)
def test_path_and_query_are_asked_for_as_they_stand(rest: str, asked: str) -> None:
    body, server = fetched(response(PNG), f"http://images.example.org{rest}")
    assert body == PNG
    assert server.heads[0].startswith(f"GET {asked} HTTP/1.1\r\nHost: images.example.org:")


def test_an_image_in_chunks_is_fetched() -> None:
    chunks = b"".join(
        b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (PNG[:100], PNG[100:], b"")
    )
    head = response(b"", "Transfer-Encoding: chunked", length=False)
    assert fetched(head + chunks)[0] == PNG


def test_an_address_in_numbers_is_fetched_from_if_it_is_public() -> None:
    """Here `only_server` decides what is public."""
    assert fetched(response(PNG), f"http://{SERVER}./a.png")[0] == PNG


def test_a_second_address_is_tried_when_the_first_is_dead() -> None:
    async def two(host: str, port: int) -> list[str]:
        return [SERVER, "127.0.0.9"]

    assert fetched(response(PNG), resolve=two)[0] == PNG


def test_proxies_of_the_environment_are_not_used(
    monkeypatch: pytest.MonkeyPatch, canary: Canary
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{canary.port}")
        monkeypatch.setenv(name.upper(), f"http://127.0.0.1:{canary.port}")
    assert fetched(response(PNG))[0] == PNG
    assert canary.connections() == 0


def _chain(hops: int, status: str = "302 Found") -> Reply:
    """/a.png, /1, ... /hops; the last one is the image. Every other hop is relative."""

    async def reply(writer: asyncio.StreamWriter, path: str) -> None:
        step = int(path[1:]) if path[1:].isdigit() else 0
        host = f"//h{step}.example.org" if step % 2 else ""
        to = f"Location: {host}/{step + 1}"
        cookie = "Set-Cookie: a=b"
        writer.write(response(PNG) if step == hops else response(b"", to, cookie, status=status))

    return reply


@pytest.mark.parametrize("status", ["301 M", "302 F", "303 S", "307 T", "308 P"])
def test_redirects_within_the_limit_are_followed(status: str) -> None:
    body, server = fetched(_chain(3, status))
    assert (body, len(server.heads)) == (PNG, 4)
    assert not any("Cookie" in head for head in server.heads)


@pytest.mark.parametrize(("hops", "limit"), [(4, 3), (1, 0), (50, 2)])
def test_redirects_beyond_the_limit_are_not(hops: int, limit: int) -> None:
    found, server = fetched(_chain(hops), max_redirects=limit)
    assert (code(found), len(server.heads)) == ((400, "url_failed"), limit + 1)


def test_a_redirect_off_the_list_of_hosts_is_refused() -> None:
    reply = response(b"", "Location: http://elsewhere.example.net/", status="302 Found")
    found, server = fetched(reply, any_host=False, hosts=("*.example.org",))
    assert (code(found), len(server.heads)) == ((400, "url_not_allowed"), 1)


def test_a_name_is_resolved_once_whatever_it_resolves_to_later(canary: Canary) -> None:
    answers = iter([[SERVER], ["127.0.0.1"], ["127.0.0.1"]])
    asked: list[tuple[str, int]] = []

    async def rebinding(host: str, port: int) -> list[str]:
        asked.append((host, port))
        return next(answers)

    body, server = fetched(response(PNG), "http://rebind.example.org/", rebinding)
    assert body == PNG
    assert asked == [("rebind.example.org", server.port)]


def test_a_name_that_turns_inwards_between_redirects_is_refused() -> None:
    answers = iter([[SERVER], [SERVER, "169.254.169.254"]])

    async def rebinding(host: str, port: int) -> list[str]:
        return next(answers)

    found, server = fetched(_chain(2), "http://rebind.example.org/", rebinding)
    assert (code(found), len(server.heads)) == ((400, "url_not_allowed"), 1)


# Size, time and malformed answers


def _endless(piece: bytes, pause_s: float = 0.0, head: bytes = b"") -> Reply:
    async def reply(writer: asyncio.StreamWriter, path: str) -> None:
        writer.write(head or response(b"", length=False))
        while True:
            writer.write(piece)
            await writer.drain()
            await asyncio.sleep(pause_s)

    return reply


@pytest.mark.parametrize("more", [0, 1])
@pytest.mark.parametrize("length", [True, False])
def test_the_largest_image_is_exactly_the_limit(more: int, length: bool) -> None:
    body = b"x" * ((1 << 20) + more)
    found, _ = fetched(response(body, length=length), max_mib=1)
    if more:
        assert code(found) == (413, "image_too_big")
    else:
        assert found == body


def test_a_declared_size_is_refused_before_the_body() -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 30000000\r\n\r\n"
    started = time.perf_counter()
    found, _ = fetched(_endless(b"x", 1.0, head))
    assert code(found) == (413, "image_too_big")
    assert time.perf_counter() - started < 1


def test_an_endless_body_is_cut_at_the_limit() -> None:
    sent = 0

    async def reply(writer: asyncio.StreamWriter, path: str) -> None:
        nonlocal sent
        writer.write(response(b"", length=False))
        while True:
            writer.write(b"x" * 65536)
            await writer.drain()
            sent += 65536

    assert code(fetched(reply, max_mib=1)[0]) == (413, "image_too_big")
    assert sent < 16 << 20  # including what the kernel buffered


async def _silent(writer: asyncio.StreamWriter, path: str) -> None:
    await asyncio.sleep(60)


async def _slow_redirects(writer: asyncio.StreamWriter, path: str) -> None:
    await asyncio.sleep(0.25)
    writer.write(response(b"", "Location: /again", status="302 Found"))


@pytest.mark.parametrize(
    "reply",
    [
        _endless(b"x", 1.0),
        _endless(b"x", 0.01, b"HTTP/1.1 200 OK\r\nX: "),
        _endless(b"HTTP/1.1 100 Continue\r\n\r\n", 0.01, b"HTTP/1.1 102 Processing\r\n\r\n"),
        _silent,
        _slow_redirects,
    ],
    ids=["a byte each second", "slow header", "only continue", "silent", "slow redirects"],
)
def test_the_whole_fetch_has_one_time_limit(reply: Reply) -> None:
    started = time.perf_counter()
    found, _ = fetched(reply, limit_s=0.6)
    assert code(found) == (400, "url_timeout")
    assert 0.5 < time.perf_counter() - started < 2


def test_a_look_up_that_never_ends_is_cut_too() -> None:
    async def slow(host: str, port: int) -> list[str]:
        await asyncio.sleep(60)
        return [SERVER]

    assert code(fetched(response(PNG), resolve=slow, limit_s=0.2)[0]) == (400, "url_timeout")


@pytest.mark.parametrize(
    "encoding", ["gzip", "GZIP", "deflate", "br", "zstd", "identity, gzip", "x"]
)
def test_an_encoded_answer_is_refused(encoding: str) -> None:
    reply = response(gzip.compress(PNG), f"Content-Encoding: {encoding}")
    assert code(fetched(reply)[0]) == (400, "url_failed")


def test_two_encoding_headers_do_not_hide_one() -> None:
    reply = response(PNG, "Content-Encoding: identity", "Content-Encoding: gzip")
    assert code(fetched(reply)[0]) == (400, "url_failed")


@pytest.mark.parametrize(
    "status",
    ["404 Not Found", "403 Forbidden", "500 Oops", "201 Created", "204 No Content", "206 Partial",
     "300 Choices", "304 Same", "302 Found", "401 Who", "407 Proxy", "418 Teapot", "999 What"],
)  # fmt: skip
def test_only_status_200_carries_an_image(status: str) -> None:
    """A 302 without Location among them."""
    assert code(fetched(response(PNG, status=status))[0]) == (400, "url_failed")


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        b"\x00\xff" * 500,
        b"hello\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2 127.0.0.1\r\n\r\n",
        b"-ERR unknown command 'GET'\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999999\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n12345",
        b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\nshort",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n127.0.0.1\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffffffff\r\nx",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n12",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\nabc",
        b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n",
        b"HTTP/1.1 200 " + b"O" * 200_000 + b"\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: http://a.example.org/\xff\xfe\r\n\r\n",
        b"HTTP/1.1 302 F\r\nLocation: http://a.example.org/" + b"a" * 8000 + b"\r\n\r\n",
        b"HTTP/1.1 101 Switching\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
    ],
    ids=lambda reply: ascii(reply[:60]),
)
def test_a_malformed_answer_is_a_refusal_that_does_not_quote_it(reply: bytes) -> None:
    found, _ = fetched(reply)
    assert code(found)[0] in (400, 413)
    assert "OpenSSH" not in str(found)


def test_a_server_that_is_not_there_is_a_refusal() -> None:
    with socket.socket() as closed:
        closed.bind((SERVER, 0))
        ports = {"http": closed.getsockname()[1], "https": 1}
        refusal, attempts = refusal_of(
            Fetcher(OPEN, to_server, only_server, ports), "http://a.b.org"
        )
    assert (refusal.code, attempts) == ("url_failed", [SERVER])


def test_an_unknown_name_looks_like_an_internal_one() -> None:
    """Otherwise a client could map the internal names."""

    async def unknown(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    inner = refusal_of(Fetcher(OPEN, resolve), "http://loop.example.org/")[0]
    nobody = refusal_of(Fetcher(OPEN, unknown), "http://loop.example.org/")[0]
    assert inner.args == nobody.args


def test_the_resolver_of_the_system_gives_plain_addresses() -> None:
    found = asyncio.run(resolve_host("localhost", 443))
    assert found
    assert len(set(found)) == len(found)
    assert all(ipaddress.ip_address(address).is_loopback for address in found)


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A self-signed certificate of images.example.org, with its key in the same file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test")])
    now = datetime.datetime.now(datetime.UTC)
    day = datetime.timedelta(days=1)
    names = x509.SubjectAlternativeName([x509.DNSName("images.example.org")])
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - day)
        .not_valid_after(now + day)
        .add_extension(names, critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    path.write_bytes(secret + made.public_bytes(pem))
    return path


def fetched_by_tls(certificate: Path, url: str) -> tuple[bytes | Refusal, Server, list[str | None]]:
    """Fetch from a TLS server. Returns also the names that clients asked for (SNI)."""
    names: list[str | None] = []
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    context.sni_callback = lambda _, name, __: names.append(name)

    async def attempt() -> tuple[bytes | Refusal, Server, list[str | None]]:
        async with serving(response(PNG), context) as server:
            config = OPEN.replace(http=False)
            fetcher = Fetcher(config, to_server, only_server, {"https": server.port})
            try:
                return await fetcher.fetch(url), server, names
            except Refusal as refusal:
                assert_says_nothing(refusal)
                return refusal, server, names

    return run_watched(attempt())[0]


def _trust(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust this certificate for one test, as an operator does with OpenSSL's variable."""
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    monkeypatch.setattr(fetching, "_trust_known_authorities", ssl.create_default_context)


def test_tls_greets_and_checks_the_name_not_the_address(
    certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trust(certificate, monkeypatch)
    body, server, names = fetched_by_tls(certificate, "https://Images.example.org./a.png")
    assert (body, names) == (PNG, ["images.example.org"])
    assert f"Host: images.example.org:{server.port}\r\n" in server.heads[0]


@pytest.mark.parametrize("url", ["https://other.example.org/a.png", f"https://{SERVER}/a.png"])
def test_a_certificate_of_another_name_is_refused(
    url: str, certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _trust(certificate, monkeypatch)
    found, server, _ = fetched_by_tls(certificate, url)
    assert (code(found), server.heads) == ((400, "url_failed"), [])


def test_a_certificate_that_nobody_vouches_for_is_refused(certificate: Path) -> None:
    found, server, _ = fetched_by_tls(certificate, "https://images.example.org/a.png")
    assert (code(found), server.heads) == ((400, "url_failed"), [])
