"""Autoscaling, overload, killed replicas and rollouts of the running application."""

import os
import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psutil
import pytest

from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.prompts import CAPTION
from serve.app import build
from tests.conftest import photo
from tests.flow.oracle import fake_caption_of
from tests.serve.service import ALONE, FAKE, Service, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("local_ray")]

ENGINE = "CaptionServer:share-captioner"
SCALING = {
    "min_replicas": 1,
    "max_replicas": 3,
    "target_ongoing_requests": 2,
    "max_ongoing_requests": 4,
    "max_queued_requests": 4,
    "upscale_delay_s": 1,
    "downscale_delay_s": 5,
}
SLOW = {"cpus": 1, "max_num_seqs": 4, "fake_latency_s": 0.5}
IMAGE = photo(1)


@pytest.fixture
def busy(tmp_path: Path) -> Iterator[Service]:
    model = FAKE | {"settings": SLOW, "scaling": SCALING}
    guard = {"concurrent": 1000}
    with served(tmp_path, model, guard=guard, decode={"reduced_jpeg": False}) as found:
        yield found


def _replicas() -> int:
    from ray import serve

    found = serve.status().applications["s4v"].deployments[ENGINE]
    return found.replica_states.get("RUNNING", 0)


def _wait_for_replicas(wanted: Callable[[int], bool], limit_s: float) -> None:
    deadline = time.monotonic() + limit_s
    while not wanted(_replicas()):
        assert time.monotonic() < deadline, _replicas()
        time.sleep(0.5)


def _ask(client: httpx.Client) -> httpx.Response:
    return client.post("/v1/caption", content=IMAGE, headers={"content-type": "image/jpeg"})


def _ask_until_answered(client: httpx.Client) -> tuple[httpx.Response, int]:
    """Ask again after Retry-After, as a polite client does. Returns the answer and the tries."""
    for tries in range(1, 200):
        answer = _ask(client)
        if answer.status_code not in (429, 503):
            return answer, tries
        time.sleep(float(answer.headers["retry-after"]) / 4)
    raise AssertionError("never answered")


def test_load_raises_replicas_from_one_to_three_and_idleness_lowers_them_again(
    busy: Service,
) -> None:
    assert _replicas() == 1
    with busy.http() as client, ThreadPoolExecutor(16) as pool:
        deadline = time.monotonic() + 150

        def keep_asking(_: int) -> None:
            while time.monotonic() < deadline and _replicas() < 3:
                _ask_until_answered(client)

        list(pool.map(keep_asking, range(16)))
        assert _replicas() == 3
    _wait_for_replicas(lambda count: count == 1, 120)


def test_from_none_the_first_answer_comes_within_half_a_minute(tmp_path: Path) -> None:
    scaling = SCALING | {"min_replicas": 0, "downscale_delay_s": 2}
    with served(tmp_path, FAKE | {"scaling": scaling}) as found, found.http() as client:
        _wait_for_replicas(lambda count: count == 0, 120)
        asked = time.monotonic()
        answer = _ask(client)
        assert answer.status_code == 200, answer.text
        assert answer.json()["caption"] == fake_caption_of(IMAGE)
        assert time.monotonic() - asked <= 30


def test_overload_is_refused_at_once_and_what_was_taken_is_answered(busy: Service) -> None:
    said, statuses, slowest = fake_caption_of(IMAGE), Counter(), 0.0

    def timed(_: int) -> tuple[httpx.Response, float]:
        # A client of its own: a shared one failed among 40 threads with a closed descriptor.
        with busy.http() as client:
            started = time.monotonic()
            return _ask(client), time.monotonic() - started

    timed(0)  # the decoder's child has started
    with ThreadPoolExecutor(40) as pool:
        for answer, seconds in pool.map(timed, range(200)):
            statuses[answer.status_code] += 1
            if answer.status_code == 200:
                assert answer.json()["caption"] == said
            else:
                assert answer.status_code in (429, 503)
                assert float(answer.headers["retry-after"]) >= 1
                slowest = max(slowest, seconds)
    print("statuses:", dict(statuses), f"slowest refusal: {slowest:.3f} s")  # noqa: T201
    assert statuses[429] + statuses[503] > 0
    assert statuses[200] > 0


def _engine_pids() -> list[int]:
    name = f"ServeReplica:s4v:{ENGINE}"
    return [
        p.pid for p in psutil.process_iter(["cmdline"]) if name in " ".join(p.info["cmdline"] or [])
    ]


def test_a_replica_that_is_killed_under_load_loses_no_request(tmp_path: Path) -> None:
    two = ALONE | {"min_replicas": 2, "max_replicas": 2}
    model = FAKE | {"settings": SLOW, "scaling": two}
    guard = {"concurrent": 1000}
    with (
        served(tmp_path, model, guard=guard, decode={"reduced_jpeg": False}) as service,
        service.http() as client,
        ThreadPoolExecutor(6) as pool,
    ):
        asked = [pool.submit(_ask_until_answered, client) for _ in range(120)]
        time.sleep(2)
        os.kill(_engine_pids()[0], signal.SIGKILL)
        answers = [future.result() for future in asked]
        assert {answer.status_code for answer, _ in answers} == {200}
        print("tries:", Counter(tries for _, tries in answers))  # noqa: T201


def test_another_configuration_is_rolled_out_without_a_failed_request(tmp_path: Path) -> None:
    from ray import serve

    two = ALONE | {"min_replicas": 2, "max_replicas": 2}
    model = FAKE | {"settings": SLOW | {"fake_latency_s": 0.2}, "scaling": two}
    settings = {
        "guard": {"concurrent": 1000},
        "decode": {"reduced_jpeg": False},
        "ingress": two,
    }
    with served(tmp_path, model, **settings) as service, service.http() as client:
        rolled_out = threading.Event()
        prompts = Counter[tuple[int, str]]()

        def keep_asking(_: int) -> None:
            while not rolled_out.is_set():
                answer = _ask(client)
                prompts[answer.status_code, answer.json().get("prompt", answer.text)] += 1
                time.sleep(0.2)

        with ThreadPoolExecutor(4) as pool:
            asking = pool.map(keep_asking, range(4))
            settings["guard"] |= {"keys_file": str(tmp_path / "keys")}
            changed = {"models": [model | {"prompt": "Now this."}]}
            serve.run(build(settings | changed), name="s4v")
            time.sleep(5)
            rolled_out.set()
            list(asking)
        print("answers:", dict(prompts))  # noqa: T201
        assert {status for status, _ in prompts} == {200}
        assert {prompt for _, prompt in prompts} == {CAPTION, "Now this."}
        assert _ask(client).json()["prompt"] == "Now this."


def test_a_client_that_stops_reading_frees_the_engine(tmp_path: Path) -> None:
    model = FAKE | {"settings": {"cpus": 1, "max_num_seqs": 1, "fake_latency_s": 20}}
    with served(tmp_path, model) as service, service.http() as client:
        body = {
            "model": "share-captioner",
            "messages": [{"role": "user", "content": "Hello"}],
            "stream": True,
        }
        for _ in range(3):
            with client.stream("POST", "/v1/chat/completions", json=body) as answer:
                assert answer.status_code == 200
                next(answer.iter_lines())
        # The engine's only slot is free again: the next first word comes long before 20 s.
        started = time.monotonic()
        with client.stream("POST", "/v1/chat/completions", json=body) as answer:
            next(line for line in answer.iter_lines() if '"content": "A"' in line)
        assert time.monotonic() - started < 15


def note_start(request: Request, sampling: SamplingConfig) -> Generation:
    """An engine that writes a line to the file that a prompt names, as it begins with it."""
    place = re.search(r"/\S+notes", request.prompt)
    assert place
    with Path(place[0]).open("a") as notes:
        notes.write("begun\n")
    return Generation("It is done.", "stop", 1, 3)


@pytest.mark.parametrize("is_streamed", [False, True])
def test_an_engine_drops_a_request_whose_time_is_over(tmp_path: Path, is_streamed: bool) -> None:
    model = FAKE | {
        "path": f"python:{__name__}:note_start",
        "settings": {"cpus": 1, "fake_latency_s": 20.0},
        "scaling": ALONE | {"max_ongoing_requests": 1, "max_queued_requests": 4},
    }
    notes = tmp_path / "notes"
    question = {"model": FAKE["id"], "messages": [{"role": "user", "content": str(notes)}]}
    with served(tmp_path, model, limits={"timeout_s": 2.0}) as service, service.http() as client:
        for _ in range(3):
            answer = client.post("/v1/chat/completions", json=question | {"stream": is_streamed})
            assert "engine_timeout_error" in answer.text
    assert notes.read_text() == "begun\n" * 3, "the first one kept the engine from the others"
