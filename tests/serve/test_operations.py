"""The work of operators while the endpoints run: keys, numbers, logs, metrics, other origins, and
engines that start late."""

import asyncio
import json
import logging
import os
import time
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from ray import cloudpickle
from ray._private.serialization import SerializationContext
from ray.util.serialization_addons import register_starlette_serializer

from s4v_core.errors import ConfigError
from serve.api import texts as texts_module
from serve.api.routes import find_rules, make_app
from serve.app import check_args
from serve.engines.client import ReplicaClient
from serve.engines.models import check_models
from serve.front.logs import ACCESS, TEXTS
from serve.keys import POLL_S, Key, WatchedKeyring, make_key, read_keys
from serve.settings import ModelConfig, ServeConfig
from tests.conftest import photo
from tests.serve.service import FAKE, about
from tests.serve.stub_service import MODEL, Stub, ask

OTHER = FAKE | {"id": "sharegpt4v-7b"}
CHAT = "/v1/chat/completions"
IMAGE = {"content": photo(1), "headers": {"content-type": "image/jpeg"}}

Serving = Callable[..., Stub]


@pytest.fixture
def stub(tmp_path: Path) -> Iterator[Serving]:
    def make(*keys: str, **settings: Any) -> Stub:
        return Stub(tmp_path, *keys, **settings)

    yield make
    for name in (ACCESS, TEXTS):
        for handler in list(logging.getLogger(name).handlers):
            logging.getLogger(name).removeHandler(handler)
            handler.close()
        logging.getLogger(name).propagate = True


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(work)


def code(answer: httpx.Response) -> tuple[int, str]:
    return answer.status_code, answer.json()["error"]["code"]


# Keys


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def write_old(path: Path, text: str) -> None:
    """Write a file as if it had been written a while ago."""
    path.write_text(text)
    write_old.moment -= 1  # type: ignore[attr-defined]
    os.utime(path, (write_old.moment, write_old.moment))  # type: ignore[attr-defined]


write_old.moment = time.time() - 100  # type: ignore[attr-defined]


def test_a_key_is_added_and_removed_while_the_keyring_is_in_use(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    (first, one), (second, two) = make_key("one"), make_key("two")
    write_old(path, f"{one}\n")
    ring = WatchedKeyring(str(path), clock)
    assert ring.find(first)
    assert ring.find(second) is None
    write_old(path, f"{one}\n{two}\n")
    assert ring.find(second) is None, "between two looks nothing changes"
    clock.now += POLL_S
    assert ring.find(second)
    write_old(path, f"{two}\n")
    clock.now += POLL_S
    assert ring.find(first) is None
    assert ring.find(second)


def test_a_file_that_is_still_being_written_is_left_alone_until_it_rests(tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    (first, one), (second, two) = make_key("one"), make_key("two")
    write_old(path, f"{one}\n")
    ring = WatchedKeyring(str(path), clock)
    future = time.time() + 1000  # a clock that is ahead of ours never makes a file old
    for text in ("", f"{one}\n{two[:20]}"):
        path.write_text(text)
        os.utime(path, (future, future))
        clock.now += POLL_S
        assert ring.find(first), text
    path.write_text(f"{two}\n")
    os.utime(path, (future, future))
    clock.now += POLL_S
    assert ring.find(first)
    clock.now += POLL_S
    assert ring.find(first) is None
    assert ring.find(second)


def test_a_secret_of_kubernetes_is_swapped_by_a_link(tmp_path: Path) -> None:
    (first, one), (second, two) = make_key("one"), make_key("two")
    for name, line in (("..1", one), ("..2", two)):
        (tmp_path / name).mkdir()
        write_old(tmp_path / name / "keys", f"{line}\n")
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "keys").symlink_to("..data/keys")
    clock = Clock()
    ring = WatchedKeyring(str(tmp_path / "keys"), clock)
    assert ring.find(first)
    (tmp_path / "..new").symlink_to("..2")
    (tmp_path / "..new").rename(tmp_path / "..data")
    clock.now += POLL_S
    assert ring.find(first) is None
    assert ring.find(second)


@pytest.mark.parametrize("damage", ["alice nonsense\n", None, "\udcff"])
def test_a_damaged_file_changes_nothing_and_is_reported_once_without_its_words(
    tmp_path: Path, damage: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path, clock = tmp_path / "keys", Clock()
    secret, line = make_key("one")
    write_old(path, f"{line}\n")
    ring = WatchedKeyring(str(path), clock)
    if damage is None:
        path.unlink()
    else:
        path.write_bytes(damage.encode("utf-8", "surrogateescape"))
        os.utime(path, (1, 1))
    for _ in range(5):
        clock.now += POLL_S
        assert ring.find(secret)
    [record] = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the 1 keys known before stay valid" in record.getMessage()
    assert "nonsense" not in record.getMessage()
    write_old(path, "")
    for _ in range(2):
        clock.now += POLL_S
        found = ring.find(secret)
    assert found is None


def test_a_copy_on_another_node_reads_the_file_of_that_node(tmp_path: Path) -> None:
    import pickle

    path = tmp_path / "keys"
    (first, one), (second, two) = make_key("one"), make_key("two")
    write_old(path, f"{one}\n")
    ring = WatchedKeyring(str(path))
    ring.find(first)
    copy = pickle.dumps(ring)
    write_old(path, f"{two}\n")
    assert pickle.loads(copy).find(second)
    assert pickle.loads(copy).find(first) is None


GOOD = "ab" * 32


@pytest.mark.parametrize(
    ("words", "expires"),
    [
        ("expires=2027-01-31", 1801440000.0),
        ("expires=2027-01-31T12:30Z", 1801398600.0),
        ("expires=2027-01-31T12:30:01Z", 1801398601.0),
        ("models=a,b-c.d concurrent=2", None),
    ],
)
def test_expiry_and_models_of_a_key_are_read(
    tmp_path: Path, words: str, expires: float | None
) -> None:
    (tmp_path / "keys").write_text(f"alice {GOOD} {words}\n")
    [key] = read_keys(tmp_path / "keys")
    assert key.expires == expires
    assert key.models == (None if expires else {"a", "b-c.d"})


@pytest.mark.parametrize(
    "words",
    [
        "expires=2027-02-31",
        "expires=tomorrow",
        "expires=2027-01-31T12:30",
        "expires=2027-01-31 expires=2027-01-31",
        "models=",
        "models=a,,b",
        "models=a models=b",
    ],
)
def test_a_wrong_expiry_or_list_of_models_is_refused(tmp_path: Path, words: str) -> None:
    (tmp_path / "keys").write_text(f"alice {GOOD} {words}\n")
    with pytest.raises(ConfigError, match=r"line 1: allowed is name sha256hex"):
        read_keys(tmp_path / "keys")


def test_a_key_works_until_it_expires() -> None:
    assert not Key("a", b"", expires=time.time() + 5).has_expired()
    assert Key("a", b"", expires=time.time() - 0.01).has_expired()
    assert not Key("a", b"").has_expired()


def test_keys_come_go_and_expire_while_others_are_being_served(stub: Serving) -> None:
    async def work() -> None:
        service = stub("alice", "bob", "old expires=2020-01-01")
        async with service.client() as alice, service.client("bob") as bob:
            async with service.client("old") as old:
                assert code(await old.get("/v1/models")) == (401, "expired_api_key")
            lines = service.keys.read_text().splitlines(keepends=True)
            write_old(service.keys, lines[0] + service.make_line("carol"))
            statuses, ended = [], time.monotonic() + 3 * POLL_S
            while time.monotonic() < ended:
                statuses.append((await alice.post(CHAT, json=ask())).status_code)
                await asyncio.sleep(0.1)
            assert set(statuses) == {200}
            assert code(await bob.get("/v1/models")) == (401, "invalid_api_key")
            async with service.client("carol") as carol:
                assert (await carol.get("/v1/models")).status_code == 200

    run(work())


def test_a_key_sees_and_uses_its_own_models_only(stub: Serving) -> None:
    async def work() -> None:
        service = stub("alice", f"bob models={OTHER['id']}", models=[FAKE, OTHER])
        async with service.client() as alice, service.client("bob") as bob:
            names = [model["id"] for model in (await alice.get("/v1/models")).json()["data"]]
            assert names == [MODEL, OTHER["id"]]
            names = [model["id"] for model in (await bob.get("/v1/models")).json()["data"]]
            assert names == [OTHER["id"]]
            assert code(await bob.get(f"/v1/models/{MODEL}")) == (404, "model_not_found")
            assert code(await bob.post(CHAT, json=ask())) == (404, "model_not_found")
            body = {"model": MODEL, "prompt": "Once", "stream": True}
            assert code(await bob.post("/v1/completions", json=body)) == (404, "model_not_found")
            captioned = await bob.post("/v1/caption", **IMAGE)
            assert captioned.json()["model"] == OTHER["id"], "the first model that it may use"
            captioned = await bob.post("/v1/caption", params={"model": MODEL}, **IMAGE)
            assert code(captioned) == (404, "model_not_found")
            assert (await bob.post(CHAT, json=ask(model=OTHER["id"]))).status_code == 200

    run(work())


# Numbers


def test_other_numbers_take_effect_and_go_back_without_a_deployment(stub: Serving) -> None:
    async def work() -> None:
        service = stub(guard={"requests_per_minute": 1000})
        async with service.client() as client:
            assert (await client.get("/v1/models")).status_code == 200
            service.ingress.reconfigure({"guard": {"requests_per_minute": 1}})
            statuses = [(await client.get("/v1/models")).status_code for _ in range(3)]
            assert statuses == [200, 429, 429]
            service.ingress.reconfigure({"limits": {"max_text_chars": 3}})
            await asyncio.sleep(0.2)
            assert code(await client.post(CHAT, json=ask("four"))) == (400, "text_too_long")
            service.ingress.reconfigure({})
            assert (await client.post(CHAT, json=ask("four"))).status_code == 200

    run(work())


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"guard": {"keys_file": "/x"}}, r"user_config.guard.keys_file cannot change while"),
        ({"guard": {"open_to_all": True}}, r"user_config.guard.open_to_all cannot change while"),
        ({"guard": {"concurrent": 0}}, r"concurrent: found 0"),
        ({"guard": {"concurrency": 1}}, r"concurrency: found 1"),
        ({"models": []}, r"user_config.models: allowed are the fields of guard and limits"),
        ({"guard": 3}, r"user_config.guard: allowed are the fields of guard and limits"),
    ],
)
def test_numbers_that_cannot_change_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        ServeConfig.model_validate({"models": [FAKE]}).apply_changes(changes)


def test_serve_replaces_replicas_for_args_and_not_for_user_config() -> None:
    """The rule of Ray Serve that serve/config.yaml relies on."""
    from ray.serve._private.deploy_utils import get_app_code_version
    from ray.serve.schema import ServeApplicationSchema

    def version(limit: int, **args: Any) -> str:
        deployment = {"name": "Ingress", "user_config": {"guard": {"concurrent": limit}}}
        shape = {"import_path": "serve.app:build", "args": args, "deployments": [deployment]}
        return str(get_app_code_version(ServeApplicationSchema.model_validate(shape)))

    assert version(1) == version(2)
    assert version(1) != version(1, guard={"concurrent": 1})


def test_the_copy_of_the_app_in_a_replica_takes_other_rules(stub: Serving, tmp_path: Path) -> None:
    """Serve pickles the app, with Ray's way around an attribute of Starlette."""
    registry = SerializationContext.__new__(SerializationContext)
    register_starlette_serializer(registry)

    async def work() -> None:
        service = stub()
        config, _, keyring = check_args(
            {"models": [FAKE], "guard": {"keys_file": str(service.keys)}}
        )
        app = cloudpickle.loads(cloudpickle.dumps(make_app(config, keyring)))
        service.app = app
        async with service.client() as client:
            assert (await client.get("/nowhere")).status_code == 404
            find_rules(app).config = config.guard.replace(requests_per_minute=1)
            statuses = [(await client.get("/nowhere")).status_code for _ in range(3)]
            assert statuses[1:] == [429, 429]

    run(work())


# A full ingress


def test_a_full_ingress_refuses_in_openais_form_and_still_answers_health_and_models(
    stub: Serving,
) -> None:
    async def work() -> None:
        service = stub(ingress={"max_ongoing_requests": 2, "min_replicas": 1})
        [handle] = service.handles
        handle.is_up.clear()
        async with service.client() as client, service.client(None) as nobody:
            waiting = [asyncio.create_task(client.post(CHAT, json=ask())) for _ in range(2)]
            while len(handle.requests) < 2:
                await asyncio.sleep(0.01)
            for path in (CHAT, "/v1/completions", "/v1/caption"):
                answer = await client.post(path, json={})
                assert code(answer) == (429, "overloaded")
                assert answer.headers["retry-after"] == "2"
            assert (await client.get("/v1/models")).status_code == 200
            assert (await nobody.get("/healthz")).text == "ok"
            assert code(await nobody.post(CHAT, json={})) == (401, "invalid_api_key")
            handle.is_up.set()
            assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
            assert (await client.post(CHAT, json=ask())).status_code == 200

    run(work())


# Logs


def read_lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    [path] = folder.glob(f"s4v-{kind}-*.jsonl")
    assert path.stat().st_mode & 0o077 == 0
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_access_log_says_which_key_asked_what_and_when(stub: Serving) -> None:
    async def work() -> Stub:
        service = stub("alice", "bob")
        async with service.client() as alice, service.client("bob") as bob:
            await alice.post(CHAT, json=ask("secret words"))
            await bob.get("/v1/models", headers={"x-request-id": "r7"})
            await bob.get("/v1/models", headers={"authorization": "Bearer s4v-stolen"})
        return service

    service = run(work())
    lines = read_lines(service.logs, "access")
    assert [(line["key"], line["path"], line["status"]) for line in lines] == [
        ("alice", CHAT, 200),
        ("bob", "/v1/models", 200),
        ("", "/v1/models", 401),
    ]
    assert lines[1]["request_id"] == "r7"
    assert all(abs(time.time() - _read_moment(line["at"])) < 60 for line in lines)
    written = "".join(path.read_text() for path in service.logs.iterdir())
    for hidden in ("secret words", "stolen", *service.secrets.values()):
        assert hidden not in written
    assert read_lines(service.logs, "texts") == []


def _read_moment(text: str) -> float:
    from datetime import datetime

    return datetime.fromisoformat(text).timestamp()


def test_texts_are_written_where_the_operator_wants_them(stub: Serving) -> None:
    async def work() -> Stub:
        service = stub(log_texts=True)
        async with service.client() as client:
            await client.post(CHAT, json=ask("One?"), headers={"x-request-id": "r1"})
            await client.post(CHAT, json=ask("Two?", stream=True))
            await client.post("/v1/completions", json={"model": MODEL, "prompt": "Three"})
            await client.post("/v1/caption", **IMAGE)
        return service

    service = run(work())
    lines = read_lines(service.logs, "texts")
    prompts = [line["prompt"] for line in lines]
    assert prompts[:3] == ["One?", "Two?", "Three"]
    assert len(prompts) == 4
    assert lines[0]["request_id"] == "r1"
    assert lines[0]["text"] == "A fake answer to 'One?'."
    assert {(line["key"], line["model"]) for line in lines} == {("alice", MODEL)}


# Other origins


def preflight(origin: str) -> dict[str, str]:
    return {"origin": origin, "access-control-request-method": "POST"}


@pytest.mark.parametrize(
    ("allowed", "origin", "is_allowed"),
    [
        ((), "https://app.example.com", False),
        (("https://app.example.com",), "https://app.example.com", True),
        (("https://app.example.com/",), "https://app.example.com", True),
        (("https://app.example.com",), "https://app.example.com.evil.net", False),
        (("https://app.example.com",), "http://app.example.com", False),
        (("https://app.example.com",), "null", False),
        (("*",), "https://anywhere.net", True),
    ],
)
def test_pages_of_allowed_origins_may_ask_and_read(
    stub: Serving, allowed: tuple[str, ...], origin: str, is_allowed: bool
) -> None:
    async def work() -> None:
        service = stub(guard={"cors_origins": allowed})
        async with service.client(None) as nobody, service.client() as client:
            asked = await nobody.options(CHAT, headers=preflight(origin))
            assert asked.status_code == (204 if is_allowed else 401)
            answers = [asked, await client.post(CHAT, json=ask(), headers={"origin": origin})]
            answers.append(await nobody.post(CHAT, json=ask(), headers={"origin": origin}))
            found = {answer.headers.get("access-control-allow-origin") for answer in answers}
            assert found == ({origin} if is_allowed else {None})
            assert all("access-control-allow-credentials" not in a.headers for a in answers)
            if is_allowed:
                assert "authorization" in asked.headers["access-control-allow-headers"]
                assert answers[1].headers["vary"] == "origin"
            assert (await client.options(CHAT)).status_code == 405, "no question of a browser"

    run(work())


# Images, adapters, engines that start late


def test_each_turn_of_a_chat_names_its_image_alike(stub: Serving) -> None:
    async def work() -> None:
        service = stub()
        [handle] = service.handles
        turns = about(IMAGE["content"])
        async with service.client() as client:
            for text in ("And now?", "Why?"):
                answer = (await client.post(CHAT, json=ask(messages=turns))).json()
                said = answer["choices"][0]["message"]["content"]
                turns += [{"role": "assistant", "content": said}]
                turns += [{"role": "user", "content": text}]
            await client.post("/v1/caption", **IMAGE)
            await client.post(CHAT, json=ask(messages=about(photo(2))))
        names = [request.names_of_images for request in handle.requests]
        assert len(set(names[:3])) == 1, "the cache of an engine knows an image by its name"
        assert names[3] != names[0]

    run(work())


def test_a_model_without_images_chats_and_refuses_them_in_a_sentence(
    stub: Serving, tmp_path: Path
) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text('{"model_type": "llama"}')
    config = ModelConfig.model_validate({"id": "llama", "path": str(tmp_path / "llama")})
    [model] = check_models((config,))
    assert model.spec.template == "model"

    async def work() -> None:
        service = stub()
        client = ReplicaClient(model, service.handles[0])  # type: ignore[arg-type]
        service.ingress._clients["llama"] = client
        async with service.client() as http:
            assert (await http.post(CHAT, json=ask(model="llama"))).status_code == 200
            shown = ask(model="llama", messages=about(IMAGE["content"]))
            for is_streamed in (False, True):
                answer = await http.post(CHAT, json=shown | {"stream": is_streamed})
                assert code(answer) == (400, "no_images")
            answer = await http.post("/v1/caption", params={"model": "llama"}, **IMAGE)
            assert code(answer) == (400, "no_images")

    run(work())


COLD = FAKE | {"scaling": {"min_replicas": 0, "max_replicas": 1}}


def test_the_first_request_after_a_scale_to_zero_waits_for_its_engine(stub: Serving) -> None:
    async def work() -> None:
        service = stub(models=[COLD], limits={"timeout_s": 0.2, "engine_start_s": 30})
        [handle] = service.handles
        handle.is_up.clear()
        async with service.client() as client:
            first = asyncio.create_task(client.post(CHAT, json=ask()))
            await asyncio.sleep(0.6)  # longer than the limit of an engine that runs
            assert not first.done()
            handle.is_up.set()
            assert (await first).status_code == 200
            handle.is_up.clear()
            assert code(await client.post(CHAT, json=ask())) == (504, "timeout"), "now it runs"

    run(work())


def test_an_engine_that_does_not_start_in_time_is_named_as_such(stub: Serving) -> None:
    async def work() -> None:
        service = stub(models=[COLD], limits={"timeout_s": 0.1, "engine_start_s": 0.1})
        service.handles[0].is_up.clear()
        async with service.client() as client:
            answer = await client.post(CHAT, json=ask())
            assert code(answer) == (503, "engine_starting")
            assert answer.headers["retry-after"] == "60"
            said = (await client.post(CHAT, json=ask(stream=True))).text
            assert '"code": "engine_starting"' in said
            assert said.endswith("data: [DONE]\n\n")

    run(work())


def test_a_stream_that_waits_for_an_engine_gets_comments(
    stub: Serving, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(texts_module, "KEEP_ALIVE_S", 0.05)

    async def work() -> None:
        service = stub(models=[COLD])
        [handle] = service.handles
        handle.is_up.clear()
        asyncio.get_running_loop().call_later(0.4, handle.is_up.set)
        async with service.client() as client:
            said = (await client.post(CHAT, json=ask("Hi", stream=True))).text
        assert said.count(": waiting for the engine\n\n") >= 3
        events = [line[6:] for line in said.splitlines() if line.startswith("data: {")]
        texts = [json.loads(event)["choices"][0]["delta"].get("content") for event in events]
        assert "".join(filter(None, texts)).replace(" ", "") == "Afakeanswerto'Hi'."

    run(work())
