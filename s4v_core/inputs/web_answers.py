"""Turns a web server's answer, or the lack of one, into the result of a URL."""

import errno
import socket
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any

import aiohttp

from s4v_core.inputs.web_policy import AGENT_TOKEN
from s4v_core.storage.reasons import find_status_reason

_NO_ROUTE = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN)
_FINAL_STATUSES = (501, 505)


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a request for a URL gave no image.

    Attributes:
        reason: One of storage.REASONS.
        retries: Largest number of further tries that make sense; None if only the policy limits
            them.
        is_unreached: Whether no server was reached.
        is_network: Whether our own network may be the cause: a refused connection is an answer,
            and so is a resolver's that there is no such name.
        wait_s: Seconds after which the server wants to be asked again.
    """

    reason: str
    retries: int | None = 0
    is_unreached: bool = False
    is_network: bool = False
    wait_s: float | None = None


def judge_headers(
    status: int, headers: Mapping[str, str], tags: list[str], disallowed: tuple[str, ...]
) -> Failure | None:
    """Why the body of an answer must not be read; None if it may.

    Args:
        tags: All values of X-Robots-Tag.
    """
    if 200 <= status < 300:
        return Failure("opted_out") if is_opted_out(tags, disallowed) else None
    if status < 400:
        return Failure("server_error")  # a redirect to nowhere, or a 304 that nobody asked for
    if reason := find_status_reason(status):
        return Failure(reason)
    wait_s = parse_retry_after(headers.get("Retry-After"))
    if status in (425, 429):
        return Failure("rate_limited", None, wait_s=wait_s)
    if status == 408:
        return Failure("timeout", None, wait_s=wait_s)
    return Failure("server_error", 0 if status in _FINAL_STATUSES else None, wait_s=wait_s)


def judge_error(error: Exception) -> Failure:
    """Why a request broke off."""
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        # With EAI_NONAME the resolver itself has answered.
        is_known = getattr(error.os_error, "errno", None) == socket.EAI_NONAME
        return Failure("dns_failure", 0 if is_known else 1, True, not is_known)
    if isinstance(error, aiohttp.ClientSSLError | aiohttp.ServerFingerprintMismatch):
        return Failure("bad_certificate")
    if isinstance(error, aiohttp.ClientConnectorError):
        is_proxy = isinstance(error, aiohttp.ClientProxyConnectionError)
        is_cut_off = is_proxy or error.os_error.errno in _NO_ROUTE
        return Failure("connection_refused", 1, True, is_cut_off)
    if isinstance(error, aiohttp.ConnectionTimeoutError):
        return Failure("timeout", 1, True, True)
    if isinstance(error, TimeoutError):
        return Failure("timeout")  # a further try would hold up its whole unit once more
    if isinstance(error, aiohttp.NonHttpUrlClientError):
        return Failure("unsupported_scheme")
    if isinstance(error, aiohttp.InvalidURL | ValueError):
        return Failure("bad_name")
    if isinstance(error, aiohttp.ClientHttpProxyError):
        return Failure(find_status_reason(error.status) or "server_error")
    if isinstance(error, aiohttp.ClientResponseError):
        return Failure("server_error")  # not HTTP
    if isinstance(error, aiohttp.ClientError | OSError):
        return Failure("connection_lost", None)
    # The client did not foresee what one server does; the other URLs must not suffer from it.
    return Failure("unreadable")


def is_opted_out(tags: list[str], disallowed: tuple[str, ...]) -> bool:
    """Whether an X-Robots-Tag with a disallowed directive addresses everybody or this tool."""
    for tag in tags:
        agent = AGENT_TOKEN  # directives before any name of an agent address all of them
        for token in tag.lower().split(","):
            name, colon, rest = token.strip().partition(":")
            if colon and name not in _VALUED_DIRECTIVES:
                agent, name = name.strip(), rest.strip()
            if agent == AGENT_TOKEN and name in disallowed:
                return True
    return False


_VALUED_DIRECTIVES = ("max-snippet", "max-image-preview", "max-video-preview", "unavailable_after")
"""Directives that have a value behind a colon, where others have their agent before it."""


def parse_retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for, as a number or as a date."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        when: Any = parsedate_to_datetime(value)
    except ValueError:
        return None
    when = when if when.tzinfo else when.replace(tzinfo=UTC)
    return max(float((when - datetime.now(UTC)).total_seconds()), 0.0)
