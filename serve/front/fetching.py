"""Fetches an image from a URL that a client sent, and only from public hosts.

One parser reads the URL, one DNS query gives its addresses, all of them must be public, and the
connection goes to exactly these addresses: the name is not resolved a second time, so that DNS
rebinding has no effect. No URL is passed on to vLLM, whose own fetching could be made to reach
internal hosts (CVE-2025-6242, CVE-2026-24779). The bytes are returned without being decoded.
"""

import asyncio
import re
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache, partial
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
"""The only port allowed for each scheme, whether or not a URL names it."""
_MAX_URL_CHARS = 4096
"""Longest URL. Signed URLs of object stores stay below 2,000 characters, and the time to decode
IDNA grows faster than the length."""
_HEADERS = {"Accept": "image/*", "Accept-Encoding": "identity", "User-Agent": "s4v"}
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

_NAT64 = IPv6Network("64:ff9b::/96")
# Networks that are not public, although `is_global` is true for them in some versions of Python:
# protocol assignments (Oracle's metadata host at .192), the 6to4 relay, Azure's metadata host,
# documentation, site-local.
_SPECIAL = ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "3fff::/20", "fec0::/10")
_NOT_PUBLIC = tuple(map(ip_network, _SPECIAL))

_LABEL = r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?"
# At least two labels, the last of which begins with a letter. This excludes addresses in disguise:
# 127.1, 0x7f.1, 2130706433.
_NAME = re.compile(rf"(?=.{{1,253}}\Z)({_LABEL}\.)+[a-z]([a-z0-9-]{{0,61}}[a-z0-9])?")
# URL parsers disagree on the meaning of these. With a backslash before an @, two parsers that vLLM
# used found different hosts (CVE-2026-25960). User names and [v1.x] have no honest use here.
_DISPUTED = re.compile(r"[\s\\]|^[^/?#]*//([^/?#]*@|\[[vV])")

# DNS queries have their own threads, so that slow name servers delay nothing else.
_DNS_THREADS = ThreadPoolExecutor(8, thread_name_prefix="look-up")


class FetchConfig(Config):
    """Fetching of images that a request names by URL."""

    enabled: bool = False
    """Fetch images that a request names by URL. If false, requests must contain their images."""
    hosts: tuple[str, ...] = ()
    """Hosts to fetch from, such as images.example.org, or *.example.org for all names below it."""
    any_host: bool = False
    """Fetch from every public host."""
    http: bool = False
    """Fetch over plain http as well as https."""
    max_mib: int = Field(20, ge=1, le=1024)
    """Largest image, in MiB as transferred."""
    limit_s: float = Field(10.0, gt=0, le=600)
    """Seconds for the whole fetch of one image: DNS queries, redirects and body."""
    max_redirects: int = Field(3, ge=0, le=10)
    """Maximum number of redirects to follow. Each is checked like the URL itself."""

    @model_validator(mode="after")
    def _check_hosts(self) -> Self:
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

    def allows_host(self, host: str) -> bool:
        """Whether the settings allow `host` (lower case, no trailing dot). `*.` stands for one or
        more labels."""
        return self.any_host or any(
            host.endswith(allowed[1:]) if allowed.startswith("*.") else host == allowed
            for allowed in self.hosts
        )


async def resolve_host(host: str, port: int) -> list[str]:
    """Find all addresses of a name with the system's resolver.

    Raises:
        OSError: The name has no address, or no name server answered.
    """
    query = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
    found = await asyncio.get_running_loop().run_in_executor(_DNS_THREADS, query)
    return list(dict.fromkeys(str(address[4][0]) for address in found))


def is_public(address: str) -> bool:
    """Whether an address (as text) belongs to the public internet. An IPv6 address that embeds IPv4
    addresses is public only if all of those are."""
    parsed = _parse_address(address)
    return parsed is not None and all(map(_is_routable, _list_targets(parsed)))


def _parse_address(host: str) -> IPv4Address | IPv6Address | None:
    """Parse four decimal numbers without leading zeros, or IPv6 without a zone: the forms that all
    parsers read alike. None for anything else."""
    with suppress(ValueError):
        return None if "%" in host else ip_address(host)
    return None


def _list_targets(address: IPv4Address | IPv6Address) -> tuple[IPv4Address | IPv6Address, ...]:
    """List the IPv4 addresses that an address embeds (NAT64, Teredo server and client, mapped,
    6to4), or the address itself if it embeds none."""
    if isinstance(address, IPv4Address):
        return (address,)
    if address in _NAT64:
        return (IPv4Address(int(address) & 0xFFFFFFFF),)
    return address.teredo or (address.ipv4_mapped or address.sixtofour or address,)


def _is_routable(address: IPv4Address | IPv6Address) -> bool:
    is_special = address.is_multicast or address.is_reserved
    return address.is_global and not is_special and not any(address in net for net in _NOT_PUBLIC)


class _PinnedResolver(AbstractResolver):
    """Gives the connector the addresses that were checked, whatever name it asks for."""

    def __init__(self, addresses: list[str]) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        kind, flags = (socket.AF_INET, socket.AF_INET6), socket.AI_NUMERICHOST
        return [
            ResolveResult(
                hostname=host, host=ip, port=port, family=kind[":" in ip], proto=0, flags=flags
            )
            for ip in self._addresses
        ]

    async def close(self) -> None:
        """Nothing to close."""


@cache  # reading the machine's certificates takes tens of milliseconds
def _trust_known_authorities() -> ssl.SSLContext:
    return ssl.create_default_context()


class Fetcher:
    """Fetches images by the rules of one configuration. All requests of an event loop may share it.

    Args:
        config: The rules.
        resolve: Returns the addresses of (host, port); called once per hop.
        is_allowed: Whether an address may be connected to. Only tests pass anything but
            `is_public`.
        ports: Scheme -> the port to connect to, which is also the only one that a URL may name.
    """

    def __init__(
        self,
        config: FetchConfig,
        resolve: Callable[[str, int], Awaitable[list[str]]] = resolve_host,
        is_allowed: Callable[[str], bool] = is_public,
        ports: Mapping[str, int] = PORTS,
    ) -> None:
        self._config, self._resolve, self._is_allowed = config, resolve, is_allowed
        self._ports = {scheme: ports[scheme] for scheme in ("https", "http")[: 1 + config.http]}
        self._tls = _trust_known_authorities()

    async def fetch(self, url: str) -> bytes:
        """Fetch the bytes at `url`: at most `max_mib`, within `limit_s`.

        Raises:
            Refusal: 400 urls_off, url_not_allowed (the same for every reason, so that clients
                cannot map the internal network), url_failed or url_timeout; 413 image_too_big. The
                sentences are fixed, except for limits and the other server's status.
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
            raise _make_failed_refusal("its server could not be reached or broke off") from None

    async def _follow(self, text: str) -> bytes:
        url = self._check_url(text)
        for _ in range(self._config.max_redirects + 1):
            answer = await self._request(url)
            if isinstance(answer, bytes):
                return answer
            url = self._check_url(answer, url)
        raise _make_failed_refusal(f"it is more than {self._config.max_redirects} redirects away")

    def _check_url(self, text: str, base: URL | None = None) -> URL:
        """Check a URL and normalize it: host in lower case, ASCII and without trailing dot; no
        fragment."""
        if len(text) > _MAX_URL_CHARS or not text.isprintable() or _DISPUTED.search(text):
            raise _make_not_allowed_refusal()
        try:
            url = URL(text, encoded=text.isascii())  # a signed URL must stay as it is
            url = base.join(url) if base else url
            host = (url.raw_host or "").removesuffix(".").lower()
            port = url.explicit_port
        except ValueError:
            raise _make_not_allowed_refusal() from None
        allowed_port = self._ports.get(url.scheme)
        if allowed_port is None or port not in (None, allowed_port):
            raise _make_not_allowed_refusal()
        # Checked after IDNA, which turns full stops and digits of other scripts into ASCII.
        is_well_formed = _parse_address(host) or _NAME.fullmatch(host)
        if not is_well_formed or not self._config.allows_host(host):
            raise _make_not_allowed_refusal()
        return url.with_host(host).with_port(allowed_port).with_fragment(None)

    async def _find_addresses(self, url: URL) -> list[str]:
        host = str(url.raw_host)
        try:
            found = [host] if _parse_address(host) else await self._resolve(host, url.port or 0)
        except (OSError, UnicodeError):
            raise _make_not_allowed_refusal() from None
        if not found or not all(map(self._is_allowed, found)):
            raise _make_not_allowed_refusal()
        return found

    async def _request(self, url: URL) -> bytes | str:
        """Send one request. Returns the body, or the target of a redirect as text."""
        resolver = _PinnedResolver(await self._find_addresses(url))
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(
                    resolver=resolver, use_dns_cache=False, ssl=self._tls
                ),
                cookie_jar=aiohttp.DummyCookieJar(),
                headers=_HEADERS,
                timeout=aiohttp.ClientTimeout(total=None),  # `fetch` limits all hops together
                auto_decompress=False,
                trust_env=False,  # a proxy would resolve the name again
            ) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status in _REDIRECTS and "Location" in answer.headers:
                return answer.headers["Location"]
            if answer.status != 200:
                raise _make_failed_refusal(f"its server answered with status {answer.status}")
            return await self._read_body(answer)

    async def _read_body(self, answer: aiohttp.ClientResponse) -> bytes:
        # A compressed body could be small here and exceed every limit when unpacked.
        if set(answer.headers.getall("Content-Encoding", ())) - {"identity"}:
            raise _make_failed_refusal("its server sent it encoded, though asked not to")
        limit, body = self._config.max_mib << 20, bytearray()
        too_big = Refusal(413, "image_too_big", f"The image is larger than {limit >> 20} MiB.")
        if (answer.content_length or 0) > limit:
            raise too_big
        async for piece in answer.content.iter_any():
            body += piece
            if len(body) > limit:
                raise too_big
        return bytes(body)


def _make_not_allowed_refusal() -> Refusal:
    sentence = "This image URL is not allowed: only plain ones of permitted public hosts are."
    return Refusal(400, "url_not_allowed", sentence)


def _make_failed_refusal(reason: str) -> Refusal:
    return Refusal(400, "url_failed", f"The image could not be fetched: {reason}.")
