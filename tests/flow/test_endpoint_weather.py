"""A caption pass with a slow, busy or broken endpoint: no image is blamed, and it resumes."""

import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import EngineError
from tests.engines.weather_endpoint import WeatherEndpoint, open_endpoint
from tests.faults.world import World, build_world
from tests.flow.oracle import check_rows, read_rows

pytestmark = pytest.mark.usefixtures("local_ray")

IMAGES = 24


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build_world(tmp_path / "shards", images=IMAGES, shards=2)


@pytest.fixture
def endpoint() -> Iterator[WeatherEndpoint]:
    with open_endpoint() as found:
        yield found


def _job(world: World, output: Path, url: str, **settings: float) -> CaptionJob:
    about = {"url": url, "silence_limit_s": 3.0, "cpus": 1} | settings
    return CaptionJob(
        input=(str(world.shards),),
        output=str(output),
        model="teacher",
        engine="openai",
        unit_size=8,
        settings=EngineSettings(**about),  # type: ignore[arg-type]
    )


def _prove(output: Path) -> None:
    rows = check_rows(output)
    assert len(rows) == IMAGES
    assert {row["status"] for row in rows} == {"ok"}
    assert {row["attempts"] for row in rows} == {1}
    assert len({row["caption"] for row in rows}) == IMAGES


def test_an_endpoint_slower_than_the_silence_limit_blames_no_image(
    world: World, endpoint: WeatherEndpoint, tmp_path: Path
) -> None:
    endpoint.delay_s = 5.0
    outcome = run_pass(_job(world, tmp_path / "out", endpoint.url))
    assert (outcome.exit_code, outcome.figures.engine_starts) == (0, 0)
    _prove(tmp_path / "out")


def test_an_endpoint_slower_than_every_limit_ends_the_pass_with_a_sentence_and_it_resumes(
    world: World, endpoint: WeatherEndpoint, tmp_path: Path
) -> None:
    endpoint.delay_s = 3.0
    limits = {"request_timeout_s": 1.0, "endpoint_patience_s": 4.0}
    job = _job(world, tmp_path / "out", endpoint.url, **limits)
    with pytest.raises(EngineError, match="no answer within 1 s"):
        run_pass(job)
    assert not list((tmp_path / "out" / "captions").glob("*.parquet"))
    endpoint.delay_s = 0.0
    assert run_pass(job).exit_code == 0
    _prove(tmp_path / "out")


def test_every_third_connection_is_reset(
    world: World, endpoint: WeatherEndpoint, tmp_path: Path
) -> None:
    endpoint.reset_every = 3
    assert run_pass(_job(world, tmp_path / "out", endpoint.url)).exit_code == 0
    _prove(tmp_path / "out")


@pytest.mark.parametrize("busy_s", [6, pytest.param(300, marks=pytest.mark.faults)])
@pytest.mark.timeout(600)
def test_rows_come_when_a_quota_allows_it_again(
    world: World, endpoint: WeatherEndpoint, tmp_path: Path, busy_s: int
) -> None:
    endpoint.busy_until, endpoint.retry_after = time.monotonic() + busy_s, "2"
    assert run_pass(_job(world, tmp_path / "out", endpoint.url)).exit_code == 0
    assert time.monotonic() > endpoint.busy_until
    _prove(tmp_path / "out")


@pytest.mark.parametrize("down_s", [6, pytest.param(180, marks=pytest.mark.faults)])
@pytest.mark.timeout(600)
def test_rows_come_when_an_endpoint_is_up_again(world: World, tmp_path: Path, down_s: int) -> None:
    first = WeatherEndpoint()
    first.delay_s = 0.3
    opened: list[WeatherEndpoint] = []

    def go_down_after_ten_requests() -> None:
        while len(first.requests) < 10:
            time.sleep(0.02)
        first.close()
        time.sleep(down_s)
        opened.append(WeatherEndpoint(first.port))

    outage = threading.Thread(target=go_down_after_ten_requests)
    outage.start()
    try:
        job = _job(world, tmp_path / "out", first.url, max_concurrent_requests=2)
        assert run_pass(job).exit_code == 0
        _prove(tmp_path / "out")
    finally:
        outage.join()
        opened[0].close()


def test_an_outage_in_mid_run_keeps_what_is_done_and_the_same_job_resumes(
    world: World, tmp_path: Path
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as place:
        port = place.getsockname()[1]
    first = WeatherEndpoint(port)
    first.delay_s = 0.3
    url = f"http://127.0.0.1:{port}/v1"
    limits = {"endpoint_patience_s": 3.0, "max_concurrent_requests": 2, "units_in_flight": 1}
    job = _job(world, tmp_path / "out", url, **limits)
    output = tmp_path / "out" / "captions"

    def end_after_a_unit() -> None:
        while not list(output.glob("*.parquet")):
            time.sleep(0.05)
        first.close()

    threading.Thread(target=end_after_a_unit, daemon=True).start()
    with pytest.raises(EngineError, match="openai"):
        run_pass(job)
    done = len(read_rows(tmp_path / "out"))
    assert 0 < done < IMAGES
    with open_endpoint(port):
        outcome = run_pass(job)
    assert (outcome.exit_code, outcome.found_done) == (0, done)
    _prove(tmp_path / "out")
