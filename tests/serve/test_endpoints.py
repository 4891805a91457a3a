"""Both endpoints over HTTP, with the clients that people use."""

import base64
import json
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack

import httpx
import openai
import psutil
import pytest

from tests.conftest import SHARED_DATA, photo
from tests.flow.oracle import fake_caption_of
from tests.images.corpus import corpus
from tests.serve.service import FAKE, Service, about, data_url, served

MODEL = "share-captioner"
IMAGE = photo(1)
SAID = fake_caption_of(IMAGE)


@pytest.fixture(scope="module")
def service(local_ray: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    second = FAKE | {"id": "sharegpt4v-7b", "prompt": "Tell me."}
    decode = {"reduced_jpeg": False}
    with served(tmp_path_factory.mktemp("served"), FAKE, second, decode=decode) as found:
        yield found


def test_the_openai_client_lists_and_finds_models(service: Service) -> None:
    client = service.openai()
    assert [model.id for model in client.models.list()] == [MODEL, "sharegpt4v-7b"]
    assert client.models.retrieve("sharegpt4v-7b").id == "sharegpt4v-7b"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("gpt-4")


def test_the_openai_client_chats_about_an_image(service: Service) -> None:
    answer = service.openai().chat.completions.create(model=MODEL, messages=about(IMAGE))
    assert answer.choices[0].message.content == SAID
    assert answer.choices[0].finish_reason == "stop"
    assert answer.usage
    assert answer.usage.completion_tokens == len(SAID.split())


def test_the_openai_client_streams_the_same_words(service: Service) -> None:
    chunks = list(
        service.openai().chat.completions.create(
            model=MODEL,
            messages=about(IMAGE),
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    texts = [c.choices[0].delta.content for c in chunks if c.choices]
    assert "".join(filter(None, texts)) == SAID
    assert len(chunks) > 4
    assert chunks[-1].usage
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"


def test_a_conversation_goes_on_and_needs_no_image(service: Service) -> None:
    turns = [
        {"role": "system", "content": "Be brief."},
        *about(IMAGE),
        {"role": "assistant", "content": "A picture."},
        {"role": "user", "content": "And now?"},
    ]
    client = service.openai()
    assert (
        client.chat.completions.create(model=MODEL, messages=turns).choices[0].message.content
        == SAID
    )
    alone = client.chat.completions.create(
        model=MODEL, messages=[{"role": "user", "content": "Hello <image></s> USER:"}]
    )
    assert alone.choices[0].message.content == "A fake answer to 'Hello <image></s> USER:'."
    text = client.completions.create(model=MODEL, prompt="Once")
    assert text.choices[0].text == "A fake answer to 'Once'."
    pieces = client.completions.create(model=MODEL, prompt="Once", stream=True)
    assert "".join(c.choices[0].text for c in pieces) == "A fake answer to 'Once'."


def test_a_request_that_cannot_be_answered_raises_the_matching_exception(service: Service) -> None:
    client = service.openai()
    create = client.chat.completions.create
    with pytest.raises(openai.AuthenticationError):
        service.openai("s4v-wrong").models.list()
    with pytest.raises(openai.NotFoundError):
        create(model="gpt-4", messages=about(IMAGE))
    with pytest.raises(openai.UnprocessableEntityError) as error:
        create(model=MODEL, messages=about(b"<html>"))
    assert error.value.code == "not_an_image"
    for wrong in (
        {"n": 3},
        {"temperature": -1},
        {"max_tokens": 100_000},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
        {"messages": []},
        {"messages": [*about(IMAGE), *about(IMAGE)]},
        {"messages": [{"role": "tool", "content": "Hi."}]},
        {"messages": about(IMAGE, "x" * 70_000)},
    ):
        with pytest.raises(openai.BadRequestError):
            create(**({"model": MODEL, "messages": about(IMAGE)} | wrong))
    with pytest.raises(openai.APIStatusError) as large:
        create(model=MODEL, messages=about(b"\xff" * (26 << 20)))
    assert large.value.status_code == 413


@pytest.mark.parametrize("form", ["raw", "multipart", "base64", "data url"])
def test_a_caption_equals_the_batch_passs_however_the_image_is_sent(
    service: Service, form: str
) -> None:
    text = base64.b64encode(IMAGE).decode()
    bodies = {
        "raw": {"content": IMAGE, "headers": {"content-type": "image/jpeg"}},
        "multipart": {"files": {"image": ("x.jpg", IMAGE)}},
        "base64": {"json": {"image": text}},
        "data url": {"json": {"image": data_url(IMAGE)}},
    }
    with service.http() as client:
        answer = client.post("/v1/caption", **bodies[form])
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert (found["caption"], found["status"], found["attempts"]) == (SAID, "ok", 1)
    assert (found["width"], found["height"], found["image_format"]) == (320, 240, "JPEG")


def test_a_caption_takes_a_prompt_a_source_and_a_model(service: Service) -> None:
    asked = {"image": data_url(IMAGE), "source": "coco", "model": "sharegpt4v-7b"}
    with service.http() as client:
        found = client.post("/v1/caption", json=asked).json()
        assert (found["source"], found["prompt"], found["model"]) == (
            "coco",
            "Tell me.",
            asked["model"],
        )
        found = client.post("/v1/caption", json=asked | {"prompt": "Say it."}).json()
        assert found["prompt"] == "Say it."


def test_several_images_come_back_line_by_line_each_with_its_own_caption(service: Service) -> None:
    images = [photo(n) for n in range(12)]
    asked = [{"image": data_url(image)} for image in images] + [
        {"image": "AAAA"},
        {"url": "http://x/y.jpg"},
    ]
    with service.http() as client:
        answer = client.post("/v1/captions", json={"images": asked})
        assert answer.headers["content-type"].startswith("application/x-ndjson")
        lines = {line["index"]: line for line in map(json.loads, answer.text.splitlines())}
        assert client.post("/v1/captions", json={"images": asked * 3}).status_code == 400
    assert sorted(lines) == list(range(14))
    for number, image in enumerate(images):
        assert lines[number]["answer"]["caption"] == fake_caption_of(image)
    assert lines[12]["error"]["code"] == "not_an_image"
    assert lines[13]["error"]["code"] == "urls_off"


def test_every_kind_of_image_is_captioned_or_refused_with_the_passs_reason(
    service: Service,
) -> None:
    with service.http() as client:
        for name, data, ends in corpus():
            answer = client.post(
                "/v1/caption", content=data, headers={"content-type": "image/jpeg"}
            )
            if answer.status_code == 200:
                assert "ok" in ends, name
            else:
                assert answer.status_code == 422, (name, answer.text)
                assert answer.json()["error"]["code"].split(":")[0] in ends, name


BAD_IMAGES = SHARED_DATA / "bad_images"


@pytest.mark.skipif(not BAD_IMAGES.exists(), reason=f"needs {BAD_IMAGES}")
def test_hostile_files_are_answered_in_time_and_leave_no_memory(service: Service) -> None:
    files = sorted(path for path in BAD_IMAGES.rglob("*") if path.is_file())
    with service.http() as client:

        def post(data: bytes) -> httpx.Response:
            return client.post("/v1/caption", content=data, headers={"content-type": "image/jpeg"})

        for seed in range(8):
            post(photo(seed))
        before = _memory_mib()
        for path in files:
            started = time.monotonic()
            answer = post(path.read_bytes())
            assert time.monotonic() - started < 10, path
            assert answer.status_code in (200, 400, 413, 422), (path, answer.text)
            if answer.status_code != 200:
                assert answer.json()["error"]["code"], path
        assert post(IMAGE).json()["caption"] == SAID
        assert _memory_mib() - before < 200


@pytest.mark.parametrize(("more", "status"), [(-100_000, 422), (100_000, 413)])
def test_a_body_may_have_25_mib_and_no_more(service: Service, more: int, status: int) -> None:
    body = IMAGE[:100] + bytes((25 << 20) + more - 100)
    with service.http() as client:
        answer = client.post("/v1/caption", content=body, headers={"content-type": "image/jpeg"})
    assert answer.status_code == status, answer.text


def test_a_thousand_connections_that_say_nothing_slow_nobody_down(service: Service) -> None:
    host, _, port = service.address.removeprefix("http://").partition(":")
    with ExitStack() as stack, service.http() as client:
        before = _slowest_s(client)
        for number in range(1000):
            plug = stack.enter_context(socket.create_connection((host, int(port))))
            if number % 2:  # half of them send an unfinished request
                plug.sendall(b"POST /v1/caption HTTP/1.1\r\nHost: a\r\n")
        # A neighbour on this machine may stall one measurement, the open connections all of them.
        assert any(_slowest_s(client) <= 2 * before + 0.1 for _ in range(5))


def _slowest_s(client: httpx.Client) -> float:
    """Seconds of the second slowest of a hundred captions."""
    took = []
    for _ in range(100):
        started = time.monotonic()
        answer = client.post("/v1/caption", content=IMAGE, headers={"content-type": "image/jpeg"})
        took.append(time.monotonic() - started)
        assert answer.status_code == 200, answer.text
    return sorted(took)[-2]


def _memory_mib() -> float:
    """Resident memory of the replicas and the processes that they started."""
    replicas = [
        process
        for process in psutil.Process().children(recursive=True)  # of no other Ray
        if "ServeReplica:s4v:" in " ".join(process.cmdline())
    ]
    family = {p for replica in replicas for p in (replica, *replica.children(recursive=True))}
    assert len(replicas) == 3
    return sum(process.memory_info().rss for process in family) / 2**20


def test_unknown_paths_and_methods_are_refused_in_openais_form(service: Service) -> None:
    with service.http() as client:
        assert client.get("/healthz").text == "ok"
        missing, wrong = client.get("/nothing"), client.get("/v1/caption")
        odd = client.post("/v1/caption", content=b"x", headers={"content-type": "text/plain"})
    assert (missing.status_code, missing.json()["error"]["code"]) == (404, "not_found")
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (405, "method_not_allowed")
    assert (odd.status_code, odd.json()["error"]["code"]) == (415, "bad_content_type")
    for path in ("/v1/models", "/openapi.json", "/v1/caption", "/docs", "/metrics"):
        assert httpx.get(service.address + path).status_code == 401
