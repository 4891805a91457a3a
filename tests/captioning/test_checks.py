"""The identity of a run: settings of the engine that change answers, also for older runs."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s4v_core.captioning.caption_pass import make_task
from s4v_core.captioning.checks import CheckedJob, check_job
from s4v_core.captioning.job import CaptionJob
from s4v_core.demo.scene_files import write_scenes
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.schemas import index_schema


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "scenes"
    write_scenes(folder, 2)
    return folder


def _check(scenes: Path, output: Path, **settings: Any) -> CheckedJob:
    job = CaptionJob(
        input=(str(scenes),),
        output=str(output),
        model=str(CAPTIONER),
        engine="vllm",
        settings=EngineSettings.model_validate(settings),
    )
    return check_job(job)


def _write_plan(output: Path, settings: dict[str, Any]) -> None:
    row = dict.fromkeys(index_schema("image_id").names) | {"image_id": "a", "source": "s"}
    table = pa.Table.from_pylist([row], schema=index_schema("image_id"))
    head = build_head([1], [], settings, "digest", kind="captions", key="image_id", unit_size=1)
    write_plan(str(output), head, [table])


def test_settings_that_change_answers_stand_in_the_run_and_in_its_rows(
    scenes: Path, tmp_path: Path
) -> None:
    plain = _check(scenes, tmp_path / "plain", max_num_seqs=3, kv_cache_gib=1)
    assert plain.settings["engine_settings"] == {}
    assert make_task(plain).engine_settings is None
    changed = _check(scenes, tmp_path / "new", quantization="fp8", engine_args={"block_size": 64})
    expected = {"quantization": "fp8", "engine_args": {"block_size": 64}}
    assert changed.settings["engine_settings"] == expected
    assert json.loads(make_task(changed).engine_settings or "") == expected
    assert "revision" not in changed.settings


def test_a_run_keeps_the_settings_that_change_answers(scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    _write_plan(output, _check(scenes, output, quantization="fp8").settings)
    _check(scenes, output, quantization="fp8", max_num_seqs=7)
    with pytest.raises(ConfigError, match=r"was made with engine_settings .*fp8.*, found \{\}"):
        _check(scenes, output)
    with pytest.raises(ConfigError, match=r"found .*bfloat16"):
        _check(scenes, output, quantization="fp8", dtype="bfloat16")


def test_a_run_of_an_earlier_version_resumes(scenes: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    settings = _check(scenes, output).settings
    _write_plan(output, {k: v for k, v in settings.items() if k != "engine_settings"})
    _check(scenes, output)
    _check(scenes, output, dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"engine_settings None, found \{'quantization': 'fp8'"):
        _check(scenes, output, quantization="fp8")
