"""Fetches an image from a URL that a client sent, from a public host or not at all.

One parser reads the URL, one look-up gives its addresses, all of them must be public, and the
connection goes to those very addresses: what a name means a moment later (DNS rebinding) is never
asked. Nothing is handed on to vLLM, whose own fetching was open (CVE-2025-6242, CVE-2026-24779).
Knows nothing of pictures: what comes back is bytes that nobody has looked at.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Self

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from aiohttp.http_exceptions import HttpProcessingError
from pydantic import Field, model_validator
from yarl import URL

from s4v_core.config import Config
from s4v_core.errors import ConfigError
from serve.front.refusals import Refusal

PORTS: Mapping[str, int] = {"https": 443, "http": 80}
"""The one port of each scheme, whether a URL names it or not."""
MAX_URL_CHARS = 4096
"""Signed URLs of object stores stay below 2,000; IDNA costs more than linear time."""
HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "s4v"}
REDIRECTS = frozenset({301, 302, 303, 307, 308})

NAT64 = IPv6Network("64:ff9b::/96")
# Not public, though `is_global` says otherwise in some versions of Python: protocol assignments
# (Oracle's metadata at .192), the 6to4 relay, Azure's metadata host, documentation, site-local.
_ODD = ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20", "fec0::/10")
NOT_PUBLIC = tuple(map(ip_network, _ODD))

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
# At least two labels, and the last begins with a letter: 127.1, 0x7f.1, 2130706433 are no names.
_NAME = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)+[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?")
# Parsers disagree on what these mean: a backslash before an @ led one of vLLM's to one host and
# the other to another (CVE-2026-25960); user names and [v1.x] serve nobody but such tricks.
_DISPUTED = re.compile(r"[\s\\]|^[^/?#]*//([^/?#]*@|\[[vV])")

# Of its own, so that name servers that keep us waiting hold up nothing else.
_LOOK_UPS = ThreadPoolExecutor(8, thread_name_prefix="look-up")


class FetchConfig(Config):
    """Images by URL."""

    enabled: bool = False
    """Fetch images that a request names by URL; otherwise it must carry them."""
    hosts: tuple[str, ...] = ()
    """Hosts to fetch from, such as images.example.org, or *.example.org for all below it."""
    any_host: bool = False
    """Fetch from every public host."""
    http: bool = False
    """Fetch over plain http too, not https alone."""
    max_mib: int = Field(20, ge=1, le=1024)
    """Largest image, in MiB as transferred."""
    limit_s: float = Field(10.0, gt=0, le=600)
    """Seconds for the whole fetch of one image: look-ups, redirects and body."""
    max_redirects: int = Field(3, ge=0, le=10)
    """Redirects to follow; each is checked like the URL itself."""

    @model_validator(mode="after")
    def _says_which_hosts(self) -> Self:
        if self.any_host and self.hosts:
            raise ConfigError("hosts: found hosts and any_host, allowed one of them")
        if self.enabled and not (self.any_host or self.hosts):
            raise ConfigError("hosts: found none, needed at least one, or any_host")
        for host in self.hosts:
            if not _NAME.fullmatch(host.removeprefix("*.")):
                raise ConfigError(
                    f"hosts: found {host!r}, allowed names such as images.example.org and "
                    "*.example.org, in lower case and ASCII (xn--)"
                )
        return self

    def lists(self, host: str) -> bool:
        """Whether `host` (lower case, no trailing dot) may be fetched from; `*.` has any depth."""
        return self.any_host or any(
            host.endswith(allowed[1:]) if allowed.startswith("*.") else host == allowed
            for allowed in self.hosts
        )


async def system_resolver(host: str, port: int) -> list[str]:
    """All addresses of a name as text. Raises OSError: there are none, or nobody to ask."""
    look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_LOOK_UPS, look_up)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def is_public(address: str) -> bool:
    """Whether an address in text is of the public internet; so must be any that it carries."""
    found = _literal(address)
    return found is not None and all(map(_is_routable, _meant(found)))


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """Four decimal numbers without leading zeros, or IPv6 without a zone: read alike by all."""
    with suppress(ValueError):
        return None if "%" in host else ip_address(host)
    return None


def _meant(address: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
    """The IPv4 addresses inside: NAT64, Teredo (server and client), mapped, 6to4. Or itself."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address in NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return address.teredo or (address.ipv4_mapped or address.sixtofour or address,)


def _is_routable(address: IPv4Address | IPv6Address) -> bool:
    odd = address.is_multicast or address.is_reserved or any(address in net for net in NOT_PUBLIC)
    return address.is_global and not odd


class _Pinned(AbstractResolver):
    """Answers the connector with the addresses that were checked, whatever it asks for."""

    def __init__(self, found: list[str]) -> None:
        self._found = found

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        kind, flags = (socket.AF_INET, socket.AF_INET6), socket.AI_NUMERICHOST
        return [
            ResolveResult(
                hostname=host, host=ip, port=port, family=kind[":" in ip], proto=0, flags=flags
            )
            for ip in self._found
        ]

    async def close(self) -> None:
        """Holds nothing."""


class Fetcher:
    """Fetches by the rules of one configuration; may be shared by all requests of an event loop.

    Args:
        config: What is allowed.
        resolve: Addresses of (host, port); asked once per hop.
        allowed: Whether an address may be connected to. Only tests have reason to say more
            than `is_public`.
        ports: By scheme, the port to connect to, and the only one that a URL may name.
    """

    def __init__(
        self,
        config: FetchConfig,
        resolve: Callable[[str, int], Awaitable[list[str]]] = system_resolver,
        allowed: Callable[[str], bool] = is_public,
        ports: Mapping[str, int] = PORTS,
    ) -> None:
        self._config, self._resolve, self._allowed = config, resolve, allowed
        self._ports = {scheme: ports[scheme] for scheme in ("https", "http")[: 1 + config.http]}
        self._tls = ssl.create_default_context()

    async def fetch(self, url: str) -> bytes:
        """The body that stands behind `url`, at most `max_mib`, within `limit_s`.

        Raises:
            Refusal: 400 urls_off, url_not_allowed (whatever the reason, so that nobody maps the
                inside), url_failed or url_timeout; 413 image_too_big. The sentences are fixed
                but for limits and the other server's status.
        """
        if not self._config.enabled:
            raise Refusal(400, "urls_off", "Images by URL are off here; send a data: URL instead.")
        try:
            async with asyncio.timeout(self._config.limit_s):
                return await self._follow(url)
        except TimeoutError:
            sentence = f"The image did not arrive within {self._config.limit_s:g} s."
            raise Refusal(400, "url_timeout", sentence) from None
        except (aiohttp.ClientError, HttpProcessingError, OSError):
            raise _failed("its server could not be reached or broke off") from None

    async def _follow(self, text: str) -> bytes:
        url = self._checked(text)
        for _ in range(self._config.max_redirects + 1):
            answer = await self._answer(url)
            if isinstance(answer, bytes):
                return answer
            url = self._checked(answer, url)
        raise _failed(f"it is more than {self._config.max_redirects} redirects away")

    def _checked(self, text: str, base: URL | None = None) -> URL:
        """The URL to ask for: host in lower case, ASCII and without trailing dot, no fragment."""
        if len(text) > MAX_URL_CHARS or not text.isprintable() or _DISPUTED.search(text):
            raise _not_allowed()
        try:
            url = URL(text, encoded=text.isascii())  # a signed URL must stay as it is
            url = base.join(url) if base else url
            host = (url.raw_host or "").removesuffix(".").lower()
            port = url.explicit_port
        except ValueError:
            raise _not_allowed() from None
        usual = self._ports.get(url.scheme)
        if usual is None or port not in (None, usual):
            raise _not_allowed()
        # Only now, after IDNA: a full stop or digit in another script is one by then.
        if not (_literal(host) or _NAME.fullmatch(host)) or not self._config.lists(host):
            raise _not_allowed()
        return url.with_host(host).with_port(usual).with_fragment(None)

    async def _addresses(self, url: URL) -> list[str]:
        host = str(url.raw_host)
        try:
            found = [host] if _literal(host) else await self._resolve(host, url.port or 0)
        except (OSError, UnicodeError):
            raise _not_allowed() from None
        if not found or not all(map(self._allowed, found)):
            raise _not_allowed()
        return found

    async def _answer(self, url: URL) -> bytes | str:
        """The body, or where a redirect leads."""
        pinned = _Pinned(await self._addresses(url))
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(resolver=pinned, use_dns_cache=False, ssl=self._tls),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=HEADERS,
                timeout=aiohttp.ClientTimeout(total=None),  # `fetch` limits all hops together
                auto_decompress=False,
                trust_env=False,  # a proxy would look the name up again
            ) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status in REDIRECTS and "Location" in answer.headers:
                return answer.headers["Location"]
            if answer.status != 200:
                raise _failed(f"its server answered with status {answer.status}")
            return await self._body(answer)

    async def _body(self, answer: aiohttp.ClientResponse) -> bytes:
        # What is small here and large when unpacked gets past every limit.
        if set(answer.headers.getall("Content-Encoding", ())) - {"identity"}:
            raise _failed("its server sent it encoded, though asked not to")
        limit, body = self._config.max_mib << 20, bytearray()
        too_big = Refusal(413, "image_too_big", f"The image is larger than {limit >> 20} MiB.")
        if (answer.content_length or 0) > limit:
            raise too_big
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > limit:
                raise too_big
        return bytes(body)


def _not_allowed() -> Refusal:
    sentence = "This image URL is not allowed: only plain ones of permitted public hosts are."
    return Refusal(400, "url_not_allowed", sentence)


def _failed(reason: str) -> Refusal:
    return Refusal(400, "url_failed", f"The image could not be fetched: {reason}.")
