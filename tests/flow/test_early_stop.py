"""A pass whose engine refuses every image alike ends early, with the server's words and exit code
1; nothing is written, and the same command goes on when the setting is right."""

from pathlib import Path

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError, EngineError
from tests.conftest import write_tar
from tests.engines import endpoint_kinds as kinds
from tests.engines.weather_endpoint import open_endpoint
from tests.faults.world import World, build_world, picture
from tests.flow.oracle import check_rows
from tests.flow.scripts import run

IMAGES = 12


@pytest.fixture
def world(tmp_path: Path) -> World:
    return build_world(tmp_path / "shards", images=IMAGES, shards=2)


def test_a_pass_that_is_refused_alike_ends_with_exit_code_1_and_resumes(
    world: World, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    flags = ["--input", str(world.shards), "--output", str(output), "--model", "teacher"]
    flags += ["--engine", "openai", "--settings.cpus", "1"]
    with open_endpoint() as endpoint:
        flags += ["--settings.url", endpoint.url]
        endpoint.reply = kinds.reply_too_long
        code, out, err = run("caption.py", *flags, cwd=tmp_path)
        assert code == 1, out + err
        [sentence] = [line for line in err.splitlines() if line.startswith("error: ")]
        assert sentence.startswith("error: engine openai: the first 12 requests were all refused")
        assert "HTTP 400: 'max_tokens' or 'max_completion_tokens' is too large: 512." in sentence
        assert not list((output / "captions").glob("*.parquet"))
        endpoint.reply = kinds.reply_like_gpt5  # the server got its right length
        code, out, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 0, out + err
    rows = check_rows(output)
    assert {row["status"] for row in rows} == {"ok"}
    assert all("max_tokens as max_completion_tokens" in row["engine"] for row in rows)


@pytest.mark.usefixtures("local_ray")
def test_the_last_rows_of_a_run_that_has_answers_may_all_be_refused(
    world: World, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    with open_endpoint() as endpoint:
        job = CaptionJob(
            input=(str(world.shards),),
            output=str(output),
            model="teacher",
            engine="openai",
            unit_size=6,
            settings=EngineSettings(url=endpoint.url, cpus=1),
        )
        assert run_pass(job).exit_code == 0
        next(iter((output / "captions").glob("*.parquet"))).unlink()
        endpoint.reply = kinds.reply_too_long
        assert run_pass(job).exit_code == 0
    rows = check_rows(output)
    refused = [row for row in rows if row["status"] == "error"]
    assert len(refused) == IMAGES // 2
    assert {row["reason"] for row in refused} == {"engine_refused:BadRequestError"}
    assert "is too large" in refused[0]["reason_detail"]


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
@pytest.mark.slow
def test_an_engine_here_that_refuses_every_image_ends_the_pass(
    tmp_path: Path, checkpoint: Path, engine: str
) -> None:
    members = {}
    for number in range(IMAGES):
        members[f"{number:06d}.png"] = picture(number)
        members[f"{number:06d}.txt"] = b"word " * 5000  # longer than any preflight foresees
    write_tar(tmp_path / "shards" / "00000.tar", members)
    output = tmp_path / "out"
    job = CaptionJob(
        input=(str(tmp_path / "shards"),),
        output=str(output),
        model=str(checkpoint),
        engine=engine,  # type: ignore[arg-type]
        prompt="Describe it with these words: {sidecar}",
        sampling=SamplingConfig(max_tokens=64),
        settings=EngineSettings(cpus=1),
    )
    with pytest.raises(EngineError, match="requests were all refused alike: engine_refused:"):
        run_pass(job)
    assert not list((output / "captions").glob("*.parquet"))


@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_a_prompt_longer_than_the_model_is_refused_before_anything_is_written(
    world: World, tmp_path: Path, checkpoint: Path, engine: str
) -> None:
    output = tmp_path / "out"
    job = CaptionJob(
        input=(str(world.shards),),
        output=str(output),
        model=str(checkpoint),
        engine=engine,  # type: ignore[arg-type]
        prompt="word " * 5000,
        settings=EngineSettings(cpus=1),
    )
    with pytest.raises(ConfigError, match=r"max_model_len: found 1024 .*, needed"):
        run_pass(job)
    assert not output.exists()
