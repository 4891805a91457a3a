"""Fetches the images that URLs name: many at a time, each with its bytes or a reason.

Every URL of a unit ends after a bounded time, however its server behaves. Only where no server at
all can be reached, the network itself is waited for; see `_is_network_down`.
"""

import asyncio
import random
import re
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from s4v_core.inputs.web_answers import Failure, judge_error, judge_headers
from s4v_core.inputs.web_hosts import Host, Hosts
from s4v_core.inputs.web_policy import WebPolicy

_FIRST_WAIT_S = 0.3
_REDIRECTS = (301, 302, 303, 307, 308)
_PLAIN_URL = re.compile(r"(?:[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=]|%[0-9A-Fa-f]{2})+")
"""A URL that is sent exactly as it is written, because it may be signed."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """How fetching one URL ended.

    Attributes:
        content: The body, or the failure.
        host: Host and port of the URL; empty if it has none.
        was_known: Whether this host had answered before.
    """

    content: bytes | Failure
    host: str = ""
    was_known: bool = False


class Fetcher:
    """Fetches URLs on one event loop, which all calls of the process share."""

    def __init__(self, policy: WebPolicy) -> None:
        self._policy = policy
        self._hosts = Hosts(policy)
        self._slots = asyncio.Semaphore(policy.max_requests)
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=300)
        timeout = aiohttp.ClientTimeout(
            total=policy.timeout_s,
            connect=policy.connect_timeout_s,
            sock_read=policy.silence_timeout_s,
        )
        self._session = aiohttp.ClientSession(
            connector=connector,
            timeout=timeout,
            headers={"User-Agent": policy.user_agent, "Accept-Encoding": "identity"},
            cookie_jar=aiohttp.DummyCookieJar(),
        )
        self._proxies = getproxies()

    async def close(self) -> None:
        await self._session.close()

    async def fetch_all(self, urls: Sequence[str], max_bytes: int) -> list[Fetched]:
        """Fetch URLs at the same time, as far as the limits allow."""
        return await asyncio.gather(*(self._fetch(url, max_bytes) for url in urls))

    async def suspects_network(self, ends: Sequence[Fetched], started: float) -> bool:
        """Whether our own network is down, as far as the ends of a call show that began at
        `started`; then all hosts will be tried again."""
        is_quiet = self._hosts.last_answer < started
        is_down = is_quiet and _is_network_down(ends, self._policy)
        if is_down:
            self._hosts.wake()
        return is_down

    async def _fetch(self, text: str, max_bytes: int) -> Fetched:
        try:
            url = URL(text, encoded=bool(_PLAIN_URL.fullmatch(text)))
            if not url.host:
                return Fetched(Failure("bad_name"))
            name = f"{url.host}:{url.port}"
        except ValueError:
            return Fetched(Failure("bad_name"))
        was_known = self._hosts.find(url).has_answered
        return Fetched(await self._try_url(url, max_bytes), name, was_known)

    async def _try_url(self, url: URL, max_bytes: int) -> bytes | Failure:
        host, tries, wait_s = self._hosts.find(url), 1, _FIRST_WAIT_S
        found = await self._follow(url, max_bytes)
        while isinstance(found, Failure) and self._is_worth_retry(host, found, tries):
            # No slot is held meanwhile.
            await asyncio.sleep(max(found.wait_s or 0, random.uniform(wait_s / 2, wait_s)))
            wait_s = min(2 * wait_s, self._policy.max_wait_s)
            found = await self._follow(url, max_bytes)
            tries += 1
        if tries > 1:
            host.note_retries(isinstance(found, bytes))
        return found

    def _is_worth_retry(self, host: Host, failure: Failure, tries: int) -> bool:
        if failure.retries is not None and tries > failure.retries:
            return False
        if failure.wait_s is None and not host.is_worth_retries:
            return False
        is_soon = (failure.wait_s or 0) <= self._policy.max_wait_s
        return is_soon and tries < self._policy.max_tries

    async def _follow(self, url: URL, max_bytes: int) -> bytes | Failure:
        """Fetch a URL, through its redirects: each of their hosts has its own limits."""
        for _ in range(self._policy.max_redirects + 1):
            found = await self._ask(self._hosts.find(url), url, max_bytes)
            if not isinstance(found, URL):
                return found
            url = found
        return Failure("redirect_loop")

    async def _ask(self, host: Host, url: URL, max_bytes: int) -> bytes | Failure | URL:
        """Send one request; return the body, the next URL, or the failure."""
        async with host.enter(), self._slots:
            if rest := host.find_rest():
                return rest
            started = time.monotonic()
            try:
                async with asyncio.timeout(host.answer_limit_s):
                    answer = await self._session.get(
                        url, allow_redirects=False, proxy=self._find_proxy(url)
                    )
                async with answer:
                    host.note_answer(started)
                    self._hosts.last_answer = time.monotonic()
                    return await self._read_answer(host, answer, max_bytes)
            except Exception as error:  # noqa: BLE001 - whatever a server causes is its URL's
                failure = judge_error(error)
                if failure.is_unreached or failure.reason == "timeout":
                    host.note_failure(failure, started)
                return failure

    def _find_proxy(self, url: URL) -> str | None:
        return None if proxy_bypass(url.host or "") else self._proxies.get(url.scheme)

    async def _read_answer(self, host: Host, answer: Any, max_bytes: int) -> bytes | Failure | URL:
        location = answer.headers.get("Location")
        if answer.status in _REDIRECTS and location:
            return _join(answer.url, location)
        tags = answer.headers.getall("X-Robots-Tag", [])
        failure = judge_headers(
            answer.status, answer.headers, tags, self._policy.disallowed_directives
        )
        host.note_refusal(failure)
        return failure or await _read_body(answer, max_bytes)


def _join(url: URL, location: str) -> URL | Failure:
    following = url.join(URL(location, encoded=bool(_PLAIN_URL.fullmatch(location))))
    if following.scheme not in ("http", "https"):
        return Failure("unsupported_scheme")
    return following if following.host else Failure("bad_name")


async def _read_body(answer: Any, max_bytes: int) -> bytes | Failure:
    if (answer.content_length or 0) > max_bytes:
        return Failure("file_too_big")
    body = bytearray()
    async for chunk in answer.content.iter_any():
        body += chunk
        if len(body) > max_bytes:
            return Failure("file_too_big")
    return bytes(body)


def _is_network_down(ends: Sequence[Fetched], policy: WebPolicy) -> bool:
    """Whether a call without any answer looks as if our own network were down.

    That is so if no URL of the call reached a server, and either
    - all of their hosts answered this process earlier, so they are not dead for good; or
    - there are several hosts, and none of them gave a sign that the network works.
    One dead host alone is never taken for the network: its URLs become rows.
    """
    failures = [end.content for end in ends if isinstance(end.content, Failure)]
    if not ends or len(failures) < len(ends) or not all(one.is_unreached for one in failures):
        return False
    if all(end.was_known for end in ends):
        return True
    hosts = {end.host for end in ends}
    return len(hosts) >= policy.min_lost_hosts and all(one.is_network for one in failures)
