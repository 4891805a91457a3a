"""Images that URLs name: each gets its bytes or its reason, after a bounded time."""

import json
import logging
import random
import socket
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from s4v_core import storage
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.indexing import index_shard
from s4v_core.inputs.shard_index import build_row
from s4v_core.inputs.web_answers import is_opted_out
from s4v_core.inputs.web_policy import WebPolicy
from tests.conftest import write_tar
from tests.inputs.table_server import Ports, make_body, run_table_server

log = logging.getLogger(__name__)

UNIT = 256


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ports]:
    with run_table_server(tmp_path_factory.mktemp("server")) as ports:
        yield ports


@pytest.fixture(scope="module")
def closed() -> str:
    """An address at which nothing listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"http://127.0.0.1:{free.getsockname()[1]}"


def _plan(urls: list[str]) -> list[dict[str, Any]]:
    return [build_row(image_id=str(at), uri=url, container="file") for at, url in enumerate(urls)]


def _read(*urls: str, max_bytes: int | None = None, **policy: Any) -> list[bytes | str]:
    return read_images(_plan(list(urls)), max_bytes, WebPolicy(**policy))


def _count(server: Ports, path: str) -> int:
    with urllib.request.urlopen(f"{server.plain}/counts") as answer:
        return int(json.loads(answer.read()).get(path, 0))


TABLE = {
    "403": (141, "forbidden"),
    "404": (200, "not_found"),
    "dns": (139, "dns_failure"),
    "html": (60, None),
    "500": (30, "server_error"),
    "503": (20, "server_error"),
    "refused": (40, "connection_refused"),
    "tls": (31, "bad_certificate"),
    "410": (30, "gone"),
    "401": (20, "unauthorized"),
    "slow": (20, "timeout"),
    "loop": (10, "redirect_loop"),
    "noai": (20, "opted_out"),
}
"""URLs that were no images any more, of 10,000 of a public table, by kind, with the reason."""


def _make_table(server: Ports, closed: str, count: int, good: str) -> list[tuple[str, str | None]]:
    """URLs in the table's proportions and in a random order, each with its expected reason."""
    sites = {"tls": f"{server.tls}/ok/{{}}", "refused": f"{closed}/{{}}"}
    sites["dns"] = "http://host-{}.invalid/x.jpg"
    bad = {kind: -(-share * count // 10_000) for kind, (share, _) in TABLE.items()}
    kinds = [kind for kind, number in bad.items() for _ in range(number)]
    kinds += [good] * (count - len(kinds))
    random.Random(7).shuffle(kinds)
    return [
        (
            sites.get(kind, f"{server.plain}/{kind}/{{}}").format(100_000 + at),
            TABLE[kind][1] if kind in TABLE else None,
        )
        for at, kind in enumerate(kinds)
    ]


def _read_in_units(urls: list[str], policy: WebPolicy) -> tuple[list[bytes | str], float]:
    """Read URLs unit by unit, as one worker of a pass does; also the seconds that it took."""
    started, found = time.monotonic(), list[bytes | str]()
    for start in range(0, len(urls), UNIT):
        found += read_images(_plan(urls[start : start + UNIT]), 64 << 20, policy)
    return found, time.monotonic() - started


def _check_table(server: Ports, closed: str, count: int, allowance_s: float) -> None:
    table = _make_table(server, closed, count, "far")
    good = [url for url, _ in table if "/far/" in url]
    # Two equal policies share their hosts, so the good ones are read by one of their own.
    alone, alone_s = _read_in_units(good, WebPolicy(host_rest_s=301))
    assert all(isinstance(image, bytes) for image in alone)
    found, all_s = _read_in_units([url for url, _ in table], WebPolicy())
    log.info("%s URLs: %.1f s; good ones alone: %.1f s", count, all_s, alone_s)
    for (url, reason), image in zip(table, found, strict=True):
        if reason is None:
            assert isinstance(image, bytes), (url, image)
        else:
            assert image == reason, url
    for (url, _), image in zip(table, found, strict=True):
        if "/far/" in url:
            assert image == make_body(int(url.rpartition("/")[2]))
    assert all_s <= 2 * alone_s + allowance_s


def test_a_table_of_dead_links_gives_each_url_its_image_or_reason(
    server: Ports, closed: str
) -> None:
    _check_table(server, closed, 400, allowance_s=20)


@pytest.mark.slow
def test_ten_thousand_urls_take_at_most_twice_the_time_of_the_good_ones(
    server: Ports, closed: str
) -> None:
    _check_table(server, closed, 10_000, allowance_s=0)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("moved/7", make_body(7)),
        ("loop/1", "redirect_loop"),
        ("nowhere/1", "dns_failure"),
        ("elsewhere/1", "unsupported_scheme"),
        ("busy/1", make_body(1)),
        ("later/1", "rate_limited"),
        ("400/1", "bad_request"),
        ("418/1", "bad_request"),
        ("451/1", "forbidden"),
        ("304/1", "server_error"),
        ("reset/1", "connection_lost"),
        ("cut/1", "connection_lost"),
        ("big/1", "file_too_big"),
        ("endless/1", "file_too_big"),
        ("html/1", b"<html>parked</html>"),
        ("noai/1", "opted_out"),
        ("ours/1", "opted_out"),
        ("others/1", make_body(1)),
        ("all/1", make_body(1)),
    ],
)
def test_every_answer_is_an_image_or_a_reason(
    server: Ports, path: str, expected: bytes | str
) -> None:
    started = time.monotonic()
    assert _read(f"{server.plain}/{path}", max_bytes=1 << 20) == [expected]
    assert time.monotonic() - started < 10
    assert isinstance(expected, bytes) or expected in storage.REASONS


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://", "bad_name"),
        ("http:///x.jpg", "bad_name"),
        ("http://[::1/x.jpg", "bad_name"),
        ("http://127.0.0.1:99999/x.jpg", "bad_name"),
        ("http://a..b.invalid/x.jpg", "bad_name"),
        ("http://host.invalid/\0.jpg", "dns_failure"),
        ("https://no-such-host.invalid/x.jpg", "dns_failure"),
    ],
)
def test_a_url_that_leads_nowhere_is_a_reason(url: str, reason: str) -> None:
    assert _read(url) == [reason]


def test_a_url_is_sent_as_written_because_it_may_be_signed(server: Ports) -> None:
    assert _read(f"{server.plain}/ok/3?sig=a%2Bb%7E+c&x=%2f", f"{server.plain}/ok/4?q=ä b") == [
        make_body(3),
        make_body(4),
    ]
    assert _read(f"HTTP://{server.plain.removeprefix('http://')}/ok/5") == [make_body(5)]


def test_one_request_is_sent_for_each_url_and_none_again_after_a_final_answer(
    server: Ports,
) -> None:
    paths = [f"/{kind}/901" for kind in ("ok", "403", "404", "410", "noai")]
    _read(*(f"{server.plain}{path}" for path in paths))
    assert [_count(server, path) for path in paths] == [1] * len(paths)
    _read(f"{server.plain}/500/901", max_tries=2)
    assert _count(server, "/500/901") == 2


def test_requests_name_the_tool_and_keep_to_the_limit_of_the_host(server: Ports) -> None:
    [agent] = _read(f"{server.plain}/agent/1")
    assert isinstance(agent, bytes)
    assert agent.startswith(b"s4v")
    with run_table_server(_make_folder(server, "limited")) as other:
        _read(*(f"{other.plain}/far/{at}" for at in range(40)), max_requests_per_host=5)
        assert 2 <= _count(other, "most") <= 5


def _make_folder(server: Ports, name: str) -> Path:
    folder = server.folder / name
    folder.mkdir()
    return folder


def test_urls_of_a_host_that_never_answers_do_not_each_cost_the_full_time(server: Ports) -> None:
    with run_table_server(_make_folder(server, "dead")) as other:
        urls = [f"{other.plain}/hang/{at}" for at in range(200)]
        started = time.monotonic()
        found = _read(*urls, silence_timeout_s=1, max_requests_per_host=10)
    assert Counter(found) == {"timeout": 200}
    assert time.monotonic() - started < 5  # one after the other they take twenty rounds


def test_slow_urls_of_a_quick_host_are_soon_given_up_and_the_others_are_read(
    server: Ports,
) -> None:
    with run_table_server(_make_folder(server, "quick")) as other:
        kinds = ["slow" if at % 5 == 0 else "ok" for at in range(100)]
        urls = [f"{other.plain}/{kind}/{at}" for at, kind in enumerate(kinds)]
        limits = {"max_requests_per_host": 4, "silence_timeout_s": 6}
        started = time.monotonic()
        found = _read(*urls, **limits)
    expected = ["timeout" if kind == "slow" else make_body(at) for at, kind in enumerate(kinds)]
    assert found == expected
    assert time.monotonic() - started < 20  # with the full time for each: 30


@pytest.mark.parametrize("kind", ["refused", "dns"])
def test_a_dead_host_is_a_row_even_where_it_is_the_whole_unit(closed: str, kind: str) -> None:
    started = time.monotonic()
    url = f"{closed}/x.jpg" if kind == "refused" else "http://alone.invalid/x.jpg"
    reason = "connection_refused" if kind == "refused" else "dns_failure"
    with storage.patience(600):
        assert _read(url) == [reason]
        assert _read(*([url] * 300)) == [reason] * 300
    assert time.monotonic() - started < 10


def test_a_host_that_worked_and_is_away_is_waited_for(server: Ports, tmp_path: Path) -> None:
    policy = {"host_rest_s": 299.0}
    with run_table_server(tmp_path) as other:
        url = f"{other.plain}/ok/1"
        assert _read(url, **policy) == [make_body(1)]
    with storage.patience(1), pytest.raises(storage.UnreachableError):
        _read(url, f"{other.plain}/ok/2", **policy)
    # If the network works otherwise, the host alone is away, and its images are rows.
    assert _read(url, f"{server.plain}/ok/3", **policy) == ["connection_refused", make_body(3)]


def test_a_network_without_any_resolver_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*place: object, **_: object) -> None:
        raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    urls = [f"http://host-{at}.example/x.jpg" for at in range(12)]
    started = time.monotonic()
    with storage.patience(1), pytest.raises(storage.UnreachableError):
        _read(*urls)
    with storage.patience(600):  # three dead hosts are three dead hosts
        assert _read(*urls[:3]) == ["dns_failure"] * 3
    assert time.monotonic() - started < 15


def test_a_shard_on_a_server_without_ranges_is_read(server: Ports) -> None:
    members = {f"{at}.jpg": bytes([at]) * (1 << 20) for at in range(20)}
    write_tar(server.folder / "norange.tar", members)
    [shard] = find_shards([f"{server.plain}/files/norange.tar"])
    rows, account = index_shard(shard)
    assert not account.damages
    assert read_images(rows[5:9]) == list(members.values())[5:9]
    assert read_images([rows[19], rows[2]]) == [members["19.jpg"], members["2.jpg"]]


def test_a_shard_that_vanished_from_its_server_is_a_reason(server: Ports) -> None:
    row = build_row(image_id="x", uri=f"{server.plain}/404/1", container="tar", offset=0, length=9)
    assert read_images([row]) == ["not_found"]
    assert read_images([row | {"uri": f"{server.plain}/403/1"}]) == ["forbidden"]
    assert read_images([row | {"uri": f"{server.plain}/410/1"}]) == ["gone"]


@pytest.mark.parametrize(
    ("tag", "expected"),
    [
        ("noai", True),
        ("noai, max-image-preview:large", True),
        ("max-snippet:0, noindex", True),
        ("unavailable_after: 25 Jun 2030 15:00:00 PST", False),
        ("otherbot: noai", False),
        ("otherbot: noai, s4v: noindex", True),
        ("S4V: NOAI", True),
        ("index, follow", False),
    ],
)
def test_directives_of_a_robots_tag(tag: str, expected: bool) -> None:
    assert is_opted_out([tag], WebPolicy().disallowed_directives) is expected
