"""The guard in process, in front of an app that answers everything, and over sockets."""

import asyncio
import contextlib
import hashlib
import itertools
import json
import logging
import socket
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pytest
import uvicorn

from serve.front.exchange import App, Message, Receive, Scope, Send
from serve.front.guard import Guard, GuardConfig
from serve.front.limits import KeyLimiter
from serve.front.refusals import Refusal
from serve.keys import Key, Keyring

SECRET, NARROW, TIRED = "s4v-right", "s4v-narrow", "s4v-tired"
MIB = 1 << 20
OPEN = ("/healthz", "/readyz", "/", "/page/app.js", "/page/a/b-c_1.min.css")
ROUTES = ("/v1/models", "/v1/chat/completions", "/v1/caption", "/metrics", "/docs", "/openapi.json")
METHODS = ("GET", "POST", "OPTIONS", "HEAD", "PUT", "DELETE", "PATCH", "TRACE")
TRICKS = (
    *("//v1/models", "/%76%31/models", "/%2e/v1/models", "/%2e%2e/v1/models", "/./v1/models"),
    *("/healthz/../v1/models", "/healthz/%2e%2e/v1/models", "/healthz%2f..%2fv1%2fmodels"),
    *(
        "//healthz",
        "/healthz/",
        "/healthz;x",
        "/healthz%00",
        "/healthz%20",
        "/HEALTHZ",
        "/healthz.",
    ),
    *("/%68ealthz", "/healthz%3fx=", "/healthz%0a", "/readyz%09", "/v1/models?x=/healthz"),
    *(
        "/v1/models;/healthz",
        "/page",
        "/page/",
        "/page//x.js",
        "/page/../v1/models",
        "/page/..%2fx",
    ),
    *("/page/%2e%2e/v1/models", "/page/a/../../v1/models", "/page/.git/config", "/page/x..js"),
    *("/page/a%2fb", "/page/\\..\\x", "/page/a.js%00", "/page/a.js/", "//page/a.js", "/%2fpage/a"),
)
"""Paths that are not open, however a router may interpret them."""
CREDENTIALS: dict[str, list[tuple[str, str]]] = {
    "none": [],
    "wrong": [("authorization", "Bearer s4v-wrong")],
    "empty": [("authorization", "Bearer ")],
    "bare": [("authorization", "Bearer")],
    "blank": [("authorization", "")],
    "no scheme": [("authorization", SECRET)],
    "basic": [("authorization", f"Basic {SECRET}")],
    "two schemes": [("authorization", f"Basic x, Bearer {SECRET}")],
    "tab": [("authorization", f"Bearer\t{SECRET}")],
    "10 KB": [("authorization", f"Bearer {SECRET * 1200}")],
    "not ascii": [("authorization", "Bearer \xff\xfe")],
    "digest": [("authorization", f"Bearer {hashlib.sha256(SECRET.encode()).hexdigest()}")],
    "twice": [("authorization", f"Bearer {SECRET}")] * 2,
    "right and wrong": [("authorization", f"Bearer {SECRET}"), ("authorization", "Bearer x")],
    "elsewhere": [("x-api-key", SECRET), ("cookie", f"authorization=Bearer {SECRET}")],
}


def ring() -> Keyring:
    def key(name: str, secret: str, *limits: int | None) -> Key:
        return Key(name, hashlib.sha256(secret.encode()).digest(), *limits)

    return Keyring((key("right", SECRET), key("narrow", NARROW, None, 1), key("tired", TIRED, 2)))


def bearer(secret: str = SECRET) -> tuple[str, str]:
    return "authorization", f"Bearer {secret}"


async def scripted(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer everything with 200 and the length of the body, except for a few paths."""
    path, size, more = scope["path"], 0, True
    if path == "/v1/refuse":
        raise Refusal(404, "no_such_model", "There is no such model.")
    if path == "/v1/fail":
        raise ValueError("private words of /a/path")
    if path == "/v1/silent":
        return
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        size, more = size + len(message["body"]), message["more_body"]
    if path == "/v1/wait":
        while (await receive())["type"] != "http.disconnect":
            pass
        return
    said = json.dumps({"size": size, "state": scope["state"], "path": path}).encode()
    headers = [(b"content-type", b"application/json"), (b"access-control-allow-origin", b"*")]
    headers += [(b"cache-control", b"max-age=60"), (b"x-request-id", b"forged")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    if path == "/v1/late":
        raise ValueError("private words")
    await send({"type": "http.response.body", "body": said, "more_body": False})


async def swallowing(scope: Scope, receive: Receive, send: Send) -> None:
    """Answer 400 to any error while reading, as FastAPI does, and read on."""
    for _ in range(100):
        with contextlib.suppress(Exception):
            if not (await receive())["more_body"]:
                break
    await send({"type": "http.response.start", "status": 400, "headers": []})
    await send({"type": "http.response.body", "body": b"no", "more_body": False})


@dataclass
class Answer:
    status: int
    headers: dict[str, str]
    body: bytes
    starts: int = 1
    messages: list[Message] = field(default_factory=list)

    def code(self) -> str:
        return str(json.loads(self.body)["error"]["code"])


async def _send_request(app: App, scope: Scope, coming: Iterable[Message]) -> Answer:
    sent: list[Message] = []
    queue = iter(coming)

    async def receive() -> Message:
        for message in queue:
            return message
        await asyncio.sleep(30)
        raise AssertionError("nobody waits that long")

    async def send(message: Message) -> None:
        sent.append(message)

    await app(scope, receive, send)
    starts = [m for m in sent if m["type"] == "http.response.start"]
    body = b"".join(m.get("body", b"") for m in sent)
    headers = {k.decode(): v.decode() for k, v in (starts[0]["headers"] if starts else [])}
    return Answer(starts[0]["status"] if starts else 0, headers, body, len(starts), sent)


def a_scope(method: str, path: str, headers: Iterable[tuple[str, str]] = (), **more: Any) -> Scope:
    pairs = [(name.encode(), value.encode("latin-1")) for name, value in headers]
    return {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": pairs,
        **more,
    }


def pieces(*parts: bytes) -> list[Message]:
    last = len(parts) - 1
    return [
        {"type": "http.request", "body": part, "more_body": n < last}
        for n, part in enumerate(parts or (b"",))
    ]


def ask(
    guard: App,
    path: str = "/v1/models",
    *headers: tuple[str, str],
    method: str = "POST",
    body: Iterable[Message] | None = None,
    **more: Any,
) -> Answer:
    coming = pieces() if body is None else body
    return asyncio.run(_send_request(guard, a_scope(method, path, headers, **more), coming))


def guarded(app: App = scripted, **config: Any) -> Guard:
    return Guard(app, GuardConfig(**config), ring())


# Access


@pytest.mark.parametrize("credential", CREDENTIALS)
def test_nothing_answers_without_a_key(credential: str) -> None:
    guard, given = guarded(), CREDENTIALS[credential]

    async def run() -> dict[tuple[str, str], int]:
        return {
            (path, method): (
                await _send_request(guard, a_scope(method, path, given), pieces())
            ).status
            for path, method in itertools.product((*ROUTES, *TRICKS), METHODS)
        }

    found = asyncio.run(run())
    assert set(found.values()) == {401}, {k: v for k, v in found.items() if v != 401}


@pytest.mark.parametrize("path", OPEN)
def test_what_is_open_is_open_to_get_and_head_only(path: str) -> None:
    found = {method: ask(guarded(), path, method=method).status for method in METHODS}
    assert found == {m: 200 if m in ("GET", "HEAD") else 401 for m in METHODS}


def test_the_page_can_be_closed() -> None:
    found = {path: ask(guarded(page=False), path, method="GET").status for path in OPEN}
    assert found == {path: 200 if path in ("/healthz", "/readyz") else 401 for path in OPEN}


@pytest.mark.parametrize("raw", [b"/%68ealthz", b"/healthz%00", b"//healthz", b""])
def test_an_open_path_that_was_spelt_otherwise_is_closed(raw: bytes) -> None:
    assert ask(guarded(), "/healthz", method="GET", raw_path=raw).status == 401
    assert ask(guarded(), "/healthz", method="GET", raw_path=None).status == 200


@pytest.mark.parametrize("root", ["/page", "/healthz", "/v1"])
def test_below_a_root_path_nothing_is_open(root: str) -> None:
    for path in (*OPEN, f"{root}/healthz", f"{root}/v1/models"):
        assert ask(guarded(), path, method="GET", root_path=root).status == 401


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "bEaReR"])
def test_a_known_key_is_let_in_and_its_name_handed_on(scheme: str) -> None:
    answer = ask(guarded(), "/v1/models", ("authorization", f"{scheme} {SECRET}"))
    assert answer.status == 200
    assert json.loads(answer.body)["state"]["key"] == "right"


def test_a_401_says_how_to_authenticate() -> None:
    answer = ask(guarded())
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.code() == "invalid_api_key"


def test_without_a_keyring_all_is_closed_but_health() -> None:
    guard = Guard(scripted, GuardConfig(), Keyring())
    assert ask(guard, "/v1/models", bearer()).status == 401
    assert ask(guard, "/v1/models", bearer("")).status == 401
    assert ask(guard, "/healthz", method="GET").status == 200


def test_open_to_all_asks_for_no_key_but_keeps_the_limits() -> None:
    guard = guarded(open_to_all=True, requests_per_minute=2)
    found = [ask(guard) for _ in range(3)]
    assert [answer.status for answer in found] == [200, 200, 429]
    assert json.loads(found[0].body)["state"]["key"] == "anyone"


@pytest.mark.parametrize("headers", [(), (bearer(),)])
@pytest.mark.parametrize("path", ["/v1/models", "/healthz"])
def test_a_websocket_is_closed_before_it_opens(
    path: str, headers: tuple[tuple[str, str], ...]
) -> None:
    scope = a_scope("GET", path, headers) | {"type": "websocket"}
    del scope["method"]
    coming = [{"type": "websocket.connect"}]
    answer = asyncio.run(_send_request(guarded(), scope, coming))
    assert answer.messages == [{"type": "websocket.close", "code": 1008, "reason": ""}]


def test_lifespan_passes_and_an_unknown_scope_does_not() -> None:
    seen: list[str] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append(scope["type"])

    for kind in ("lifespan", "http.something"):
        asyncio.run(_send_request(guarded(app), {"type": kind}, []))
    assert seen == ["lifespan"]


# Sizes


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("content-length", "-1")], 400),
        ([("content-length", "+5")], 400),
        ([("content-length", "0x5")], 400),
        ([("content-length", "1_0")], 400),
        ([("content-length", "")], 400),
        ([("content-length", "5, 5")], 400),
        ([("content-length", "\xb2")], 400),
        ([("content-length", "9" * 5000)], 400),
        ([("content-length", "5")] * 2, 400),
        ([("content-length", "5"), ("transfer-encoding", "chunked")], 400),
        ([("transfer-encoding", "gzip, chunked")], 400),
        ([("transfer-encoding", "identity")], 400),
        ([("transfer-encoding", "chunked")] * 2, 400),
        ([("content-length", str(25 * MIB + 1))], 413),
        ([("content-length", "1" + "0" * 17)], 413),
        ([("x-long", "x" * 33_000)], 431),
        ([(f"x-{n}", "") for n in range(6000)], 431),
    ],
)
def test_a_head_that_is_wrong_is_refused_unread(
    headers: list[tuple[str, str]], status: int
) -> None:
    answer = ask(guarded(), "/v1/models", bearer(), *headers, body=_untouched())
    assert answer.status == status
    assert ask(guarded(), "/v1/models", *headers, body=_untouched()).status == 401
    assert ask(guarded(), "/healthz", *headers, method="GET", body=_untouched()).status == status


def _untouched() -> Iterator[Message]:
    raise AssertionError("read, though refused")
    yield {}


def test_a_long_query_counts_as_head() -> None:
    assert ask(guarded(), "/v1/models", bearer(), query_string=b"x" * 33_000).status == 431


@pytest.mark.parametrize(
    ("declared", "parts", "status"),
    [
        (5, [b"12345"], 200),
        (5, [b"1", b"2345"], 200),
        (5, [b"12345", b""], 200),
        (5, [b"1234"], 400),
        (5, [b""], 400),
        (5, [b"123456"], 400),
        (5, [b"123", b"456"], 400),
        (0, [b"1"], 400),
        (MIB, [b"x" * MIB], 200),
        (None, [b"x" * MIB], 200),
        (None, [b"x" * MIB, b"y"], 413),
        (None, [b"x" * (MIB + 1)], 413),
    ],
)
def test_a_body_is_as_long_as_it_says_and_as_it_may(
    declared: int | None, parts: list[bytes], status: int
) -> None:
    length = [("transfer-encoding", "chunked")]
    if declared is not None:
        length = [("content-length", str(declared))]
    for app in (scripted, swallowing):
        answer = ask(guarded(app, max_body_mib=1), "/v1", bearer(), *length, body=pieces(*parts))
        assert answer.status == (400 if app is swallowing and status == 200 else status)
        assert answer.starts == 1
        assert len([m for m in answer.messages if not m.get("more_body")]) == 2


def test_a_body_above_the_limit_never_reaches_the_app() -> None:
    seen: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        while True:
            seen.append(len((await receive())["body"]))

    endless = (
        {"type": "http.request", "body": b"x" * 1000, "more_body": True} for _ in iter(int, 1)
    )
    answer = ask(guarded(app, max_body_mib=1), "/v1", bearer(), body=endless)
    assert answer.status == 413
    assert MIB - 1000 < sum(seen) <= MIB


def test_a_refused_body_is_answered_though_the_app_goes_on() -> None:
    sent: list[Message] = []
    at_that_time: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        with contextlib.suppress(Refusal):
            await receive()
        at_that_time.append(sent[0]["status"])
        with pytest.raises(Refusal):
            await send({"type": "http.response.start", "status": 200, "headers": []})

    async def receive() -> Message:
        return pieces(b"x" * (MIB + 1))[0]

    async def send(message: Message) -> None:
        sent.append(message)

    guard = guarded(app, max_body_mib=1)
    asyncio.run(guard(a_scope("POST", "/v1", [bearer()]), receive, send))
    assert at_that_time == [413]
    assert len(sent) == 2


def test_a_slow_body_is_cut_and_a_slow_app_is_not() -> None:
    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        await asyncio.sleep(0.3)
        await scripted(scope, receive, send)

    guard, first = guarded(slow, body_limit_s=0.2), pieces(b"1", b"2")
    for app in (guard, guarded(swallowing, body_limit_s=0.2)):
        answer = ask(app, "/v1", bearer(), ("content-length", "9"), body=first[:1])
        assert (answer.status, answer.code(), answer.starts) == (408, "body_too_slow", 1)
        assert answer.headers["connection"] == "close"
    assert ask(guard, "/v1", bearer(), body=first).status == 200


def test_after_the_whole_body_an_app_may_wait_for_the_end_without_limit() -> None:
    guard = guarded(body_limit_s=0.05)

    async def run() -> int:
        task = asyncio.ensure_future(
            _send_request(guard, a_scope("GET", "/v1/wait", [bearer()]), pieces())
        )
        done, _ = await asyncio.wait([task], timeout=0.5)
        task.cancel()
        return len(done)

    assert asyncio.run(run()) == 0


def test_fastapi_does_not_turn_a_refused_body_into_its_own() -> None:
    from fastapi import Body, FastAPI

    app, seen = FastAPI(), []

    @app.post("/v1/caption")
    async def caption(value: Any = Body()) -> str:  # noqa: B008 - FastAPI's way
        seen.append(value)
        return "a caption"

    app.add_middleware(Guard, config=GuardConfig(max_body_mib=1), keyring=ring())
    kind = ("content-type", "application/json")
    long = [*pieces(b'"' + b"x" * MIB, b'"')]
    answer = ask(app, "/v1/caption", bearer(), kind, body=long)
    assert (answer.status, answer.code(), answer.starts) == (413, "body_too_large", 1)
    assert seen == []
    assert ask(app, "/v1/caption", bearer(), kind, body=pieces(b'"x"')).body == b'"a caption"'
    assert ask(app, "/v1/caption", kind, body=pieces(b'"x"')).status == 401
    assert ask(app, "/docs", bearer(), method="GET").status == 200
    assert seen == ["x"]


# Rates


def test_a_bucket_empties_and_fills_again() -> None:
    now = [0.0]
    limiter = KeyLimiter(lambda: now[0])
    for _ in range(50):
        limiter.admit("a", 50, 999)
    with pytest.raises(Refusal) as refusal:
        limiter.admit("a", 50, 999)
    assert refusal.value.headers()["retry-after"] == "2"
    limiter.admit("b", 50, 999)
    now[0] = 1.19
    with pytest.raises(Refusal) as refusal:
        limiter.admit("a", 50, 999)
    assert refusal.value.headers()["retry-after"] == "1"
    now[0] = 1.21
    limiter.admit("a", 50, 999)
    now[0] = 10_000.0
    for _ in range(50):
        limiter.admit("a", 50, 999)
    with pytest.raises(Refusal, match="rate_limited"):
        limiter.admit("a", 50, 999)


def test_a_slot_is_given_back_once() -> None:
    limiter = KeyLimiter()
    first, second = (limiter.admit("a", 600, 2) for _ in range(2))
    with pytest.raises(Refusal):
        limiter.admit("a", 600, 2)
    first()
    first()
    assert limiter.count_running("a") == 1
    second()
    assert limiter.count_running("a") == 0


def test_a_key_has_its_own_rate_and_learns_when_to_try_again() -> None:
    guard = guarded()
    found = [ask(guard, "/v1/models", bearer(TIRED)) for _ in range(3)]
    assert [answer.status for answer in found] == [200, 200, 429]
    assert 1 <= int(found[2].headers["retry-after"]) <= 30
    assert ask(guard, "/v1/models", bearer()).status == 200


@pytest.mark.parametrize("end", ["answer", "disconnect", "error", "cancel", "late"])
def test_a_slot_is_free_again_however_a_request_ends(end: str) -> None:
    guard = guarded()

    async def run() -> list[int]:
        gate: asyncio.Queue[Message] = asyncio.Queue()
        held = asyncio.ensure_future(_held(guard, gate, end))
        await asyncio.sleep(0)
        scope = a_scope("GET", "/v1/models", [bearer(NARROW)])
        busy = await _send_request(guard, scope, pieces())
        if end == "cancel":
            held.cancel()
        elif end == "disconnect":
            gate.put_nowait({"type": "http.disconnect"})
        else:
            gate.put_nowait(pieces()[0])
        await asyncio.wait([held])
        free = await _send_request(guard, scope, pieces())
        assert busy.headers["retry-after"] == "1"
        return [busy.status, free.status]

    assert asyncio.run(run()) == [429, 200]


async def _held(guard: Guard, gate: "asyncio.Queue[Message]", end: str) -> None:
    paths = {"disconnect": "/v1/wait", "late": "/v1/late", "error": "/v1/odd"}

    async def receive() -> Message:
        message = await gate.get()
        if end == "error":
            raise OSError("broken pipe")
        return message

    async def send(message: Message) -> None:
        pass

    await guard(a_scope("GET", paths.get(end, "/v1/a"), [bearer(NARROW)]), receive, send)


def test_what_follows_an_answer_holds_no_slot() -> None:
    inside: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await scripted(scope, receive, send)
        inside.append(guard._limiter.count_running("narrow"))

    guard = guarded(app)
    assert ask(guard, "/v1/models", bearer(NARROW)).status == 200
    assert inside == [0]


def test_a_client_that_left_holds_no_slot_though_the_app_goes_on() -> None:
    inside: list[int] = []

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        for _ in range(2):
            inside.append(guard._limiter.count_running("narrow"))
            await receive()
        inside.append(guard._limiter.count_running("narrow"))

    guard = guarded(app)
    ask(guard, "/v1", bearer(NARROW), body=[*pieces(), {"type": "http.disconnect"}])
    assert inside == [1, 1, 0]


# Answers and logs


@pytest.mark.parametrize(
    "path", ["/v1/models", "/v1/refuse", "/v1/fail", "/healthz", "/", "/page/a"]
)
@pytest.mark.parametrize("headers", [(), (bearer(),)])
def test_every_answer_carries_the_security_headers(
    path: str, headers: tuple[tuple[str, str], ...]
) -> None:
    answer = ask(guarded(), path, *headers, ("origin", "https://evil.example"), method="GET")
    names = [name for name, _ in answer.messages[0]["headers"]]
    assert len(names) == len(set(names))
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "no-referrer"
    assert answer.headers["content-security-policy"].startswith("default-src 'none'; ")
    is_page = path in ("/", "/page/a")
    assert ("script-src 'self'" in answer.headers["content-security-policy"]) == is_page
    assert answer.headers["cache-control"] == ("max-age=60" if is_page else "no-store")
    assert not [name for name in answer.headers if name.startswith("access-control")]


@pytest.mark.parametrize(
    ("given", "is_kept"),
    [
        (["a-B_9."], True),
        (["x" * 64], True),
        (["x" * 65], False),
        (["a b"], False),
        (["a\n"], False),
        ([""], False),
        (["a", "b"], False),
        ([], False),
    ],
)
def test_a_request_has_one_id_from_end_to_end(given: list[str], is_kept: bool) -> None:
    headers = [("x-request-id", value) for value in given]
    answer = ask(guarded(), "/v1/models", bearer(), *headers)
    found = answer.headers["x-request-id"]
    assert json.loads(answer.body)["state"]["request_id"] == found
    assert (found == given[0]) if is_kept else (len(found) == 32 and found not in given)
    assert (ask(guarded(), "/v1", *headers).headers["x-request-id"] in given) == is_kept


def test_a_refusal_of_the_app_is_answered_as_it_is() -> None:
    answer = ask(guarded(), "/v1/refuse", bearer())
    assert (answer.status, answer.code()) == (404, "no_such_model")
    assert ask(guarded(), "/v1/refuse", bearer(), method="HEAD").body == b""


@pytest.mark.parametrize("path", ["/v1/fail", "/v1/silent"])
def test_an_error_of_the_app_is_a_500_without_its_words(
    path: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = ask(guarded(), path, bearer(), ("x-request-id", "r1"))
    assert (answer.status, answer.code()) == (500, "internal_error")
    assert b"private" not in answer.body
    assert "private" not in caplog.text
    assert [r.message.split(":")[0] for r in caplog.records if r.name == "serve.front.guard"] == [
        "request r1"
    ]


def test_an_error_in_the_middle_of_an_answer_says_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    answer = ask(guarded(), "/v1/late", bearer(), ("x-request-id", "r1"))
    assert (answer.status, answer.starts, answer.body) == (200, 1, b"")
    assert "r1" in caplog.text
    assert "private" not in caplog.text


def test_the_access_log_is_a_line_of_json_without_secrets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "s4v.access")
    ended: list[tuple[str, str, int]] = []
    guard = Guard(
        scripted,
        GuardConfig(),
        ring(),
        lambda report: ended.append((report["key"], report["code"], report["status"])),
    )
    ask(
        guard,
        "/v1/" + "é\n\x1b" + "x" * 200,
        bearer(),
        ("x-request-id", "r1"),
        body=pieces(b"data:"),
    )
    ask(guard, "/v1/models", bearer("s4v-wrong"), query_string=b"token=hidden")
    ask(guard, "/v1/wait", bearer(), body=[*pieces(), {"type": "http.disconnect"}])
    lines = [json.loads(record.message) for record in caplog.records]
    assert all(line.pop("ms") >= 0 and line.pop("request_id") for line in lines)
    assert all(datetime.fromisoformat(line.pop("at")).tzinfo for line in lines)
    assert [line.pop("code") for line in lines] == ["", "invalid_api_key", ""]
    assert lines == [
        {
            "method": "POST",
            "path": "/v1/???" + "x" * 93,
            "status": 200,
            "key": "right",
            "bytes_in": 5,
        },
        {"method": "POST", "path": "/v1/models", "status": 401, "key": "", "bytes_in": 0},
        {"method": "POST", "path": "/v1/wait", "status": 499, "key": "right", "bytes_in": 0},
    ]
    assert ended == [("right", "", 200), ("", "invalid_api_key", 401), ("right", "", 499)]
    assert not [word for word in ("s4v-", "data:", "hidden") if word in caplog.text]


# Over sockets


@dataclass
class Served:
    port: int
    guard: Guard
    ended: list[tuple[str, str, int]]

    def connect(self) -> socket.socket:
        plug = socket.socket()
        plug.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 16)
        plug.settimeout(20)
        plug.connect(("127.0.0.1", self.port))
        return plug

    def ask(self, request: bytes) -> list[Answer]:
        """Send bytes and return every answer, until the server closes or is quiet for a while."""
        with self.connect() as plug:
            plug.sendall(request)
            return answers(plug)


def answers(plug: socket.socket, quiet_s: float = 20.0, many: int = 1) -> list[Answer]:
    plug.settimeout(quiet_s)
    reader, found = plug.makefile("rb"), []
    with contextlib.suppress(TimeoutError, ConnectionError):
        while len(found) < many and (line := reader.readline()):
            status, headers = int(line.split()[1]), {}
            while line := reader.readline().strip():
                name, _, value = line.decode("latin-1").partition(":")
                headers[name.strip().lower()] = value.strip()
            body = reader.read(int(headers.get("content-length", 0)))
            if headers.get("transfer-encoding") == "chunked":
                while size := int(reader.readline(), 16):
                    body += reader.read(size + 2)[:-2]
                reader.readline()
            found.append(Answer(status, headers, body))
    return found


def head(method: str, target: str, *lines: str, host: str = "x", secret: str = "") -> bytes:
    given = [f"Authorization: Bearer {secret}"] if secret else []
    return "\r\n".join(
        [f"{method} {target} HTTP/1.1", f"Host: {host}", *given, *lines, "", ""]
    ).encode("latin-1")


@pytest.fixture(scope="module", params=["httptools", "h11"])
def served(request: pytest.FixtureRequest) -> Iterator[Served]:
    """Run uvicorn with either of its parsers; `?hasty` selects a body limit of one second."""
    ended: list[tuple[str, str, int]] = []
    guard = Guard(
        scripted,
        GuardConfig(),
        ring(),
        lambda report: ended.append((report["key"], report["code"], report["status"])),
    )
    hasty = guarded(body_limit_s=1.0)

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await (hasty if scope["query_string"] == b"hasty" else guard)(scope, receive, send)

    settings = uvicorn.Config(app, http=request.param, log_config=None, lifespan="off")  # type: ignore[arg-type]
    server = uvicorn.Server(settings)
    plug = socket.socket()
    plug.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    plug.bind(("127.0.0.1", 0))
    plug.listen(128)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [plug]}, daemon=True)
    thread.start()
    yield Served(plug.getsockname()[1], guard, ended)
    server.should_exit = True
    thread.join(20)
    plug.close()


def test_no_spelling_of_a_path_gets_in_over_a_socket(served: Served) -> None:
    tricks = [t for t in TRICKS if t.isascii()]
    with contextlib.ExitStack() as stack:
        found = {}
        for target in (
            *tricks,
            *ROUTES,
            "http://healthz/v1/models",
            "*",
            "healthz",
            "/v1/models#/healthz",
        ):
            plug = stack.enter_context(served.connect())
            plug.sendall(head("GET", target))
            found[target] = [a.status for a in answers(plug)]
    assert not {t: s for t, s in found.items() if s not in ([400], [401])}
    assert found["/v1/models"] == [401]


@pytest.mark.parametrize(
    "host",
    ["a/healthz?x=", "a/healthz#", "x/healthz?@y", "#@healthz", "healthz", "localhost/page/a.js?"],
)
def test_no_host_opens_a_path(served: Served, host: str) -> None:
    forwarded = [
        "X-Forwarded-Host: a/healthz?x=",
        "X-Original-URL: /healthz",
        "X-Rewrite-URL: /healthz",
    ]
    for target in ("/v1/models", "//v1/models", "/v1/models?x=/healthz"):
        (answer,) = served.ask(head("GET", target, *forwarded, host=host))
        assert answer.status in (400, 401)


def test_health_is_open_over_a_socket_and_only_health(served: Served) -> None:
    for target in ("/healthz", "/healthz?x=", "/readyz", "/", "/page/a.js"):
        (answer,) = served.ask(head("GET", target))
        assert (answer.status, json.loads(answer.body)["path"]) == (200, target.partition("?")[0])


@pytest.mark.parametrize("method", ["GET", "POST", "OPTIONS", "HEAD", "PUT", "DELETE"])
def test_no_method_and_no_credential_gets_in_over_a_socket(served: Served, method: str) -> None:
    found = []
    for given in CREDENTIALS.values():
        lines = [f"{name}: {value}" for name, value in given]
        with served.connect() as plug:
            plug.sendall(head(method, "/v1/models", *lines))
            found.append(plug.recv(1000).split()[1])
    assert set(found) <= {b"401", b"400"}
    assert found[0] == b"401"


def test_a_websocket_is_refused_over_a_socket(served: Served) -> None:
    upgrade = ["Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    upgrade.append("Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    for secret, target in itertools.product(("", SECRET), ("/v1/models", "/healthz")):
        (answer,) = served.ask(head("GET", target, *upgrade, secret=secret))
        assert answer.status == 403


def test_each_of_two_requests_in_one_packet_needs_its_key(served: Served) -> None:
    key = head("GET", "/v1/models", secret=SECRET)
    for first, second, expected in (
        (head("GET", "/healthz"), head("GET", "/v1/models"), [200, 401]),
        (key, head("GET", "/v1/models"), [200, 401]),
        (head("GET", "/v1/models"), key, [401, 200]),
    ):
        with served.connect() as plug:
            plug.sendall(first + second)
            assert [a.status for a in answers(plug, many=2)] == expected


def test_no_second_request_hides_in_a_body(served: Served) -> None:
    hidden = head("GET", "/healthz")
    both = ["Content-Length: 5", "Transfer-Encoding: chunked"]
    for lines in (both, both[::-1], ["Content-Length: 5", "Content-Length: 6"]):
        (answer,) = served.ask(head("POST", "/v1/a", *lines, secret=SECRET) + b"0\r\n\r\n" + hidden)
        assert answer.status == 400
    with served.connect() as plug:  # the rest of a refused request is not taken for another one
        plug.sendall(head("POST", "/v1/a", f"Content-Length: {len(hidden)}") + hidden)
        found = [a.status for a in answers(plug, many=2)]
    assert found == [401]


def test_a_chunked_body_is_cut_before_26_mib_were_taken(served: Served) -> None:
    part = b"10000\r\n" + b"x" * (1 << 16) + b"\r\n"
    sent = 0
    with served.connect() as plug:
        plug.sendall(head("POST", "/v1/caption", "Transfer-Encoding: chunked", secret=SECRET))
        with contextlib.suppress(ConnectionError):
            while sent < 64 * MIB:
                plug.sendall(part)
                sent += 1 << 16
        found = [a.status for a in answers(plug)]
    assert 24 * MIB < sent < 26 * MIB
    assert found in ([413], [])  # a reset may overtake the answer
    assert _soon(lambda: served.ended[-1] == ("right", "body_too_large", 413))


def _soon(claim: Any) -> bool:
    until = time.monotonic() + 10
    while not claim() and time.monotonic() < until:
        time.sleep(0.02)
    return bool(claim())


@pytest.mark.parametrize("expect", [[], ["Expect: 100-continue"]])
def test_a_body_declared_too_long_is_refused_before_it_is_sent(
    served: Served, expect: list[str]
) -> None:
    lines = [f"Content-Length: {1000 * MIB}", *expect]
    (answer,) = served.ask(head("POST", "/v1/caption", *lines, secret=SECRET))
    assert (answer.status, answer.headers["connection"]) == (413, "close")
    (answer,) = served.ask(head("POST", "/v1/caption", *lines))
    assert (answer.status, answer.headers["connection"]) == (401, "close")


def test_a_body_of_allowed_size_arrives_whole(served: Served) -> None:
    size = 8 * MIB
    request = head("POST", "/v1/caption", f"Content-Length: {size}", secret=SECRET) + bytes(size)
    (answer,) = served.ask(request)
    assert (answer.status, json.loads(answer.body)["size"]) == (200, size)


def test_a_byte_now_and_then_is_too_slow(served: Served) -> None:
    since = time.monotonic()
    with served.connect() as plug:
        plug.sendall(head("POST", "/v1/caption?hasty", "Content-Length: 1000", secret=SECRET))
        plug.settimeout(0.1)
        for _ in range(200):
            plug.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                if plug.recv(1, socket.MSG_PEEK):
                    break
        found = [a.status for a in answers(plug)]
    assert found == [408]
    assert 0.9 < time.monotonic() - since < 15


def test_a_half_sent_request_is_cut_and_its_connection_closed(served: Served) -> None:
    with served.connect() as plug:
        plug.sendall(head("POST", "/v1/a?hasty", "Content-Length: 10", secret=NARROW) + b"123")
        assert [a.status for a in answers(plug)] == [408]
        assert plug.recv(1) == b""
    (answer,) = served.ask(head("GET", "/v1/models?hasty", secret=NARROW))
    assert answer.status == 200


def test_a_client_that_stops_short_is_gone_and_holds_nothing(served: Served) -> None:
    with served.connect() as plug:
        plug.sendall(head("POST", "/v1/a", "Content-Length: 10", secret=NARROW) + b"123")
        plug.shutdown(socket.SHUT_WR)
        assert [a.status for a in answers(plug)] in ([], [400])
    assert _soon(lambda: served.guard._limiter.count_running("narrow") == 0)


def test_a_disconnect_frees_the_slot_over_a_socket(served: Served) -> None:
    request = head("GET", "/v1/models", secret=NARROW)
    with served.connect() as plug:
        plug.sendall(head("GET", "/v1/wait", secret=NARROW))
        assert _soon(lambda: served.guard._limiter.count_running("narrow") == 1)
        (answer,) = served.ask(request)
        assert (answer.status, answer.headers["retry-after"]) == (429, "1")
    assert _soon(lambda: served.guard._limiter.count_running("narrow") == 0)
    (answer,) = served.ask(request)
    assert answer.status == 200


def test_an_answer_that_breaks_off_does_not_look_whole(served: Served) -> None:
    with served.connect() as plug:
        plug.sendall(head("GET", "/v1/late", secret=SECRET))
        said = b"".join(iter(lambda: plug.recv(1000), b""))
    assert b" 200 " in said.split(b"\r\n")[0]
    assert not said.endswith(b"0\r\n\r\n")
