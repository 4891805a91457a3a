"""The same operations on a running Serve: floods at the door, keys that change under load, streams
whose replica is replaced or dies."""

import contextlib
import json
import os
import resource
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
import pytest

from serve.app import build
from serve.keys import make_key
from tests.conftest import photo
from tests.serve.service import ALONE, FAKE, Service, served

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("local_ray")]

MODEL = "share-captioner"
CHAT = "/v1/chat/completions"
LONG = " ".join(f"word{n}" for n in range(400))
IDLE, GOOD = 4000, 50
FAST = FAKE | {"settings": {"cpus": 1, "max_num_seqs": 64}}
FREE = {"concurrent": 10_000}


def _list_pids(name: str) -> set[int]:
    found = set()
    for process in psutil.process_iter(["cmdline"]):
        if name in " ".join(process.info["cmdline"] or []):
            found.add(process.pid)
    return found


@pytest.fixture(scope="module")
def service(
    local_ray: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Service, Path]]:
    """One application for all tests that ask for it. They come first in this module, because the
    other tests start applications that replace it."""
    folder = tmp_path_factory.mktemp("served")
    with served(folder, FAST, guard=FREE, log_folder=str(folder / "logs")) as found:
        yield found, folder


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.removeprefix("http://").partition(":")
    return host, int(port)


def _flood(address: str) -> int:
    """Send one endless header. Returns the MiB that were taken before the connection was cut."""
    sent = 0
    with socket.create_connection(_split(address)) as flood, contextlib.suppress(OSError):
        flood.settimeout(20)
        flood.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: ")
        for _ in range(4096):
            flood.sendall(b"a" * 131_072)
            sent += 131_072
    return sent >> 20


def test_an_endless_header_kills_no_proxy(service: tuple[Service, Path]) -> None:
    address = service[0].address
    proxies = _list_pids("ProxyActor")
    assert proxies
    for _ in range(3):
        assert _flood(address) < 16
        assert httpx.get(f"{address}/healthz", timeout=5).text == "ok"
    time.sleep(35)  # Serve would have replaced a proxy that missed its health checks
    assert _list_pids("ProxyActor") == proxies


def _time_requests(service: Service, count: int) -> list[float]:
    with httpx.Client(base_url=service.address, headers=service.headers, timeout=60) as client:
        found = []
        for _ in range(count):
            since = time.monotonic()
            assert client.get("/v1/models").status_code == 200
            found.append(time.monotonic() - since)
        return found


def _measure_p99(service: Service) -> float:
    with ThreadPoolExecutor(GOOD) as pool:
        took = [
            time
            for many in pool.map(lambda _: _time_requests(service, 20), range(GOOD))
            for time in many
        ]
    return float(np.percentile(took, 99))


def test_idle_connections_and_slow_heads_do_not_slow_good_clients(
    service: tuple[Service, Path],
) -> None:
    found, _ = service
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < 2 * IDLE:
        pytest.skip(f"needs {2 * IDLE} open files, the limit is {hard}")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, 2 * IDLE), hard))
    _measure_p99(found)
    quiet = _measure_p99(found)
    proxies = _list_pids("ProxyActor")
    with contextlib.ExitStack() as stack:
        for number in range(IDLE):
            connection = stack.enter_context(socket.create_connection(_split(found.address)))
            if number % 2:
                connection.sendall(b"GET / HTTP/1.1\r\nX: ")
        busy = _measure_p99(found)
        for _ in range(10):
            assert httpx.get(f"{found.address}/healthz", timeout=5).status_code == 200
            time.sleep(0.5)
    print(f"p99 {quiet:.3f} s in quiet, {busy:.3f} s beside {IDLE} connections")  # noqa: T201
    assert busy <= 2 * quiet + 0.05
    assert _list_pids("ProxyActor") == proxies


def test_keys_come_go_and_expire_while_sixteen_clients_run(service: tuple[Service, Path]) -> None:
    found, folder = service
    before = _list_pids("ServeReplica:s4v:")
    kept = (folder / "keys").read_text()
    (new, new_line), (short, short_line) = make_key("new"), make_key("short")
    end = time.time() + 40
    expires = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(end))
    statuses, is_over = Counter[int](), threading.Event()

    def keep_asking(_: int) -> None:
        with found.http() as client:
            while not is_over.is_set():
                statuses[client.get("/v1/models").status_code] += 1

    def wait_for(secret: str, status: int, limit_s: float) -> None:
        deadline, streak = time.monotonic() + limit_s, 0
        headers = {"authorization": f"Bearer {secret}"}
        with httpx.Client(base_url=found.address, headers=headers) as client:
            while streak < 20:  # at every replica
                is_so = client.get("/v1/models").status_code == status
                streak = streak + 1 if is_so else 0
                assert is_so or time.monotonic() < deadline
                time.sleep(0.05)

    with ThreadPoolExecutor(16) as pool:
        asking = pool.map(keep_asking, range(16))
        try:
            (folder / "keys").write_text(f"{kept}{new_line}\n{short_line} expires={expires}\n")
            wait_for(new, 200, 10)
            wait_for(short, 200, 10)
            wait_for(short, 401, end - time.time() + 10)
            (folder / "keys").write_text(kept)
            wait_for(new, 401, 10)
        finally:
            is_over.set()
        list(asking)
    assert set(statuses) == {200}
    assert _list_pids("ServeReplica:s4v:") == before


def test_the_logs_of_a_replica_are_json_lines(service: tuple[Service, Path]) -> None:
    found, folder = service
    with found.http() as client:
        client.get("/v1/models", headers={"x-request-id": "looked-for"})
    lines = [
        json.loads(line)
        for path in (folder / "logs").glob("s4v-access-*.jsonl")
        for line in path.read_text().splitlines()
    ]
    [line] = [line for line in lines if line["request_id"] == "looked-for"]
    assert (line["key"], line["path"], line["status"]) == ("tests", "/v1/models", 200)


def test_the_endpoints_metrics_are_shown_to_a_key(service: tuple[Service, Path]) -> None:
    found, _ = service
    with found.http() as client:
        deadline = time.monotonic() + 60
        while "ray_s4v_http_requests_total" not in (answer := client.get("/metrics")).text:
            assert time.monotonic() < deadline, f"{answer.status_code}: {answer.text[:1000]}"
            time.sleep(1)
    assert httpx.get(f"{found.address}/metrics").status_code == 401


def test_a_full_ingress_answers_health_and_models_and_refuses_in_openais_form(
    tmp_path: Path,
) -> None:
    model = FAKE | {"settings": {"cpus": 1, "max_num_seqs": 200, "fake_latency_s": 8.0}}
    ingress = ALONE | {"max_ongoing_requests": 4, "max_queued_requests": 4}
    with served(tmp_path, model, ingress=ingress, guard=FREE) as found:

        def ask(_: int) -> httpx.Response:
            with found.http() as client:
                body = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}]}
                return client.post(CHAT, json=body)

        with ThreadPoolExecutor(120) as pool, found.http() as client:
            asked = [pool.submit(ask, n) for n in range(120)]
            time.sleep(3)
            for _ in range(10):
                assert client.get("/healthz").status_code == 200
                assert client.get("/v1/models").status_code == 200
                time.sleep(0.2)
            answers = [future.result() for future in asked]
    counts = Counter(answer.status_code for answer in answers)
    assert counts.keys() == {200, 429}
    for answer in answers:
        if answer.status_code == 429:
            assert answer.json()["error"]["code"] == "overloaded"


def _open_stream(client: httpx.Client) -> Any:
    body = {
        "model": MODEL,
        "messages": [{"role": "user", "content": LONG}],
        "stream": True,
    }
    return client.stream("POST", CHAT, json=body)


def _read_stream(lines: Iterator[str]) -> tuple[str, str | None]:
    """Read a stream to its end. Returns its text and the code of its error."""
    text, error = "", None
    for line in lines:
        if not line.startswith("data: {"):
            continue
        event = json.loads(line[6:])
        error = event["error"]["code"] if "error" in event else error
        for choice in event.get("choices", ()):
            text += choice["delta"].get("content") or ""
    return text, error


def _is_whole(text: str) -> bool:
    return text.endswith("word399'.")


SLOW = FAKE | {"settings": {"cpus": 1, "max_num_seqs": 8, "fake_latency_s": 20.0}}


def test_a_long_stream_ends_whole_while_its_replicas_are_drained(tmp_path: Path) -> None:
    from ray import serve

    settings: dict[str, Any] = {"guard": dict(FREE)}
    with served(tmp_path, SLOW, **settings) as found, found.http() as client:
        with _open_stream(client) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if '"content"' in line)
            settings["guard"]["keys_file"] = str(tmp_path / "keys")
            changed = {"models": [SLOW | {"prompt": "Now this."}], "ingress": ALONE}
            rollout = threading.Thread(
                target=serve.run, args=(build(settings | changed),), kwargs={"name": "s4v"}
            )
            rollout.start()
            text, error = _read_stream(lines)
        rollout.join(120)
        assert error is None
        assert _is_whole(text)


def test_a_stream_whose_replica_dies_says_so(tmp_path: Path) -> None:
    with served(tmp_path, SLOW, guard=FREE) as found, found.http() as client:
        with _open_stream(client) as answer:
            lines = answer.iter_lines()
            next(line for line in lines if '"content"' in line)
            [pid] = _list_pids("ServeReplica:s4v:CaptionServer")
            os.kill(pid, signal.SIGKILL)
            text, error = _read_stream(lines)
        assert not _is_whole(text)
        assert error == "engine_unavailable"
        deadline = time.monotonic() + 120
        while client.post("/v1/caption", content=photo(1)).status_code == 503:
            assert time.monotonic() < deadline


def test_a_stream_to_a_model_that_was_scaled_to_zero_is_kept_alive(tmp_path: Path) -> None:
    from ray import serve

    scaling = {"min_replicas": 0, "max_replicas": 1, "downscale_delay_s": 2, "upscale_delay_s": 1}
    limits = {"timeout_s": 5.0, "engine_start_s": 120.0}

    def count() -> int:
        state = serve.status().applications["s4v"].deployments[f"CaptionServer:{MODEL}"]
        return state.replica_states.get("RUNNING", 0)

    with served(tmp_path, FAKE | {"scaling": scaling}, limits=limits) as found:
        deadline = time.monotonic() + 120
        while count():
            assert time.monotonic() < deadline
            time.sleep(0.5)
        with found.http() as client, _open_stream(client) as answer:
            assert answer.status_code == 200
            text, error = _read_stream(answer.iter_lines())
        assert error is None
        assert _is_whole(text)
