"""`--plan`: it counts the job's own data, knows its layers, and says whether it fits."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ray_jobs.stages import train_main
from s4v_core.errors import ConfigError, InputError
from s4v_core.model.builders import build_sharegpt4v_7b_config
from s4v_core.recipes import FINETUNE, PRETRAIN
from s4v_core.training.arithmetic.shapes import read_shape
from s4v_core.training.checks import check_stage
from s4v_core.training.estimate.devices import find_memory_gb, judge_fit
from s4v_core.training.estimate.forecast import forecast_stage
from s4v_core.training.preparation import prepare_run
from s4v_core.training.stage import Learning
from tests.conftest import photo


def _write_data(folder: Path, count: int, images: int = 1) -> Path:
    """Records of several lengths; every tenth is bad."""
    for number in range(images):
        (folder / f"{number}.jpg").write_bytes(photo(number, (60, 50)))
    records: list[dict[str, Any]] = []
    for number in range(count):
        said = [
            {"from": "human", "value": "<image>" * images + "\nWhat?"},
            {"from": "gpt", "value": "a red circle " * (number % 7 + 1)},
        ]
        names = [f"{one}.jpg" for one in range(images)]
        records.append({"id": number, "images": names, "conversations": said})
        if number % 10 == 9:
            said.pop()
    path = folder / "data.json"
    path.write_text(json.dumps(records))
    return path


def _run(argv: list[str], capsys: pytest.CaptureFixture[str], **recipes: Any) -> str:
    assert train_main(recipes or FINETUNE, argv, "") == 0
    return capsys.readouterr().out


def test_a_plan_counts_the_data_as_the_preparation_does(tmp_path: Path, checkpoint: Path) -> None:
    data = _write_data(tmp_path, 60, images=2)
    job = FINETUNE["demo"].replace(
        data=(str(data),), images=(), model=str(checkpoint), output=str(tmp_path / "run"),
        demo_scenes=0, max_missing_share=0.2, batch_size=8, device_batch_size=4,
    )  # fmt: skip
    found = forecast_stage(job, counts_data=True).data
    assert found
    counts, spec = prepare_run(check_stage(job))
    assert found.expected.samples == counts.samples == 54
    assert found.unusable == counts.skipped == {"no_turns": 6}
    with pa.memory_map(spec.samples) as file:
        table = pa.ipc.open_file(file).read_all()
    assert found.expected.tokens == round(np.mean(table["tokens"].to_numpy()))
    assert found.expected.learnt == round(np.mean([sum(r) for r in table["learnt"].to_pylist()]))
    assert (found.images, found.is_guessed) == (2.0, False)
    assert forecast_stage(job, counts_data=True).steps == spec.steps == 7


def test_a_plan_of_own_data_needs_no_root_and_a_missing_file_is_an_error(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("S4V_ROOT", raising=False)
    data = _write_data(tmp_path, 24)
    text = _run(["--data", str(data), "--plan"], capsys)
    assert "data: 22 samples of 6" in text
    assert "guessed from characters" in text
    assert "1 steps of 128 samples (22 samples, 1 epochs)" in text
    with pytest.raises(InputError, match="no such file"):
        train_main(FINETUNE, ["--data", f"{tmp_path}/typo.json", "--plan"], "")
    own_sizes = ["--data", f"{tmp_path}/later.json", "--expected.samples", "1280", "--plan"]
    assert "10 steps of 128 samples" in _run(own_sizes, capsys)
    assert "data: not read" in _run(["--plan"], capsys)


def test_a_frozen_language_model_is_computed_twice_and_not_three_times() -> None:
    shape = read_shape(build_sharegpt4v_7b_config())
    whole = forecast_stage(FINETUNE["paper"])
    frozen = forecast_stage(FINETUNE["paper"].replace(learning=Learning(language=False)))
    assert whole.flops_per_sample - frozen.flops_per_sample == pytest.approx(
        shape.count_language_flops(876)
    )
    assert frozen.own.learning["language"] == 0


def test_the_jobs_own_layers_stand_in_the_table() -> None:
    job = PRETRAIN["paper"].replace(learning=Learning(vision_from=20))
    found = forecast_stage(job)
    assert [choice.vision_from for choice in found.choices] == [24, 20, 18, 12, 6, 0]
    assert found.own.vision_from == 20
    assert "job: block 20" in found.as_text()
    assert [c.vision_from for c in forecast_stage(FINETUNE["paper"]).choices] == [24]


@pytest.mark.parametrize(
    ("name", "memory"),
    [
        ("A100-80G", 80),
        ("A100-40G", 40),
        ("A100", 40),
        ("NVIDIA A100-SXM4-80GB", 80),
        ("NVIDIA H200", 141),
        ("H100", 80),
        ("L40S", 48),
        ("A10G", 24),
        ("NVIDIA_TESLA_V100", 16),
        ("RTX 9090", None),
    ],
)
def test_memory_of_gpus(name: str, memory: float | None) -> None:
    assert find_memory_gb(name) == memory


def test_the_verdict_says_whether_a_job_fits(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert judge_fit(30.0, 80).endswith(": fits")
    assert "may not fit" in judge_fit(75.0, 80)
    assert "does not fit; take a smaller --device-batch-size" in judge_fit(81.0, 80)
    assert "not known" in judge_fit(81.0, None)
    monkeypatch.delenv("S4V_ROOT", raising=False)
    plan = _run(["--plan", "--workers", "2", "--accelerator", "A100-40G"], capsys)
    assert "of 40 GB per GPU with the longest samples: does not fit" in plan
    assert "fits" in _run(["--plan"], capsys)


def test_the_papers_memory_stands_under_its_pretraining_alone(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("S4V_ROOT", raising=False)
    assert "Table 6" not in _run(["--plan"], capsys)
    assert "Table 6" in _run(["--plan"], capsys, **PRETRAIN)


def test_a_plan_names_containers_that_are_slow_at_random(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = _write_data(tmp_path, 8)
    chance = np.random.default_rng(0)
    images = [photo(0, (64, 48)) + chance.bytes(200_000) for _ in range(60)]
    pq.write_table(pa.table({"image": images}), tmp_path / "slow.parquet")
    (tmp_path / "x.tar.gz").write_bytes(b"\x1f\x8b" + bytes(5_000_000))
    argv = ["demo", "--data", str(data), "--plan"]
    argv += ["--images", f"{tmp_path}/slow.parquet", "--images", f"{tmp_path}/x.tar.gz"]
    text = _run(argv, capsys)
    assert "slow.parquet: each image that training reads costs 12.1 MB" in text
    assert "x.tar.gz is a compressed tar: each image that training reads unpacks half of its 5.0 MB" in text  # fmt: skip  # noqa: E501


def _read_job(text: str) -> dict[str, Any]:
    return dict(json.loads(text[: text.index("\n}") + 2]))


@pytest.mark.parametrize(
    ("argv", "kept"),
    [
        (["demo"], {"demo_scenes": 4000, "images": ["out/demo/lessons_4000"]}),
        (["demo", "--images", "DIR/typo"], {"demo_scenes": 0, "images": ["DIR/typo"]}),
        (["demo", "--data", "DIR/data.json"], {"demo_scenes": 0, "images": []}),
        (
            ["demo", "--data", "DIR/data.json", "--images", "DIR/typo"],
            {"demo_scenes": 0, "images": ["DIR/typo"]},
        ),
        (
            ["demo", "--demo-scenes", "0", "--data", "DIR/data.json"],
            {"demo_scenes": 0, "images": []},
        ),
        (["demo", "--demo-scenes", "9", "--images", "DIR/new"], {"demo_scenes": 9}),
        (["--data", "DIR/data.json"], {"image_root": None, "demo_scenes": 0}),
        (["--data", "DIR/data.json", "--image-root", "DIR"], {"image_root": "DIR"}),
        (["--batch-size", "256"], {"image_root": "$S4V_ROOT/data"}),
    ],
)
def test_a_recipes_leftovers_do_not_act_on_a_job_of_ones_own(
    argv: list[str],
    kept: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("S4V_ROOT", raising=False)
    _write_data(tmp_path, 3)
    place = [one.replace("DIR", str(tmp_path)) for one in argv]
    text = _run([*place, "--plan", "--expected.samples", "5"], capsys)
    found = _read_job(text.replace(str(tmp_path), "DIR"))
    assert {name: found[name] for name in kept} == kept


def test_a_typo_in_images_draws_no_demo_world(tmp_path: Path) -> None:
    data = _write_data(tmp_path, 8)
    typo = tmp_path / "imges"
    for argv in (
        ["demo", "--images", str(typo), "--output", f"{tmp_path}/run"],
        ["demo", "--images", str(typo), "--data", str(data), "--output", f"{tmp_path}/run"],
    ):
        with pytest.raises(InputError, match="no such file"):
            train_main(FINETUNE, argv, "")
        assert not typo.exists()


def test_only_what_needs_the_root_asks_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("S4V_ROOT", raising=False)
    data = _write_data(tmp_path, 8)
    argv = ["--data", str(data), "--output", f"{tmp_path}/run", "--workers", "0"]
    with pytest.raises(ConfigError, match=r"S4V_ROOT is not set; .* pass --model, which need"):
        train_main(FINETUNE, argv, "")
    with pytest.raises(ConfigError, match="no such folder"):  # all places are given
        train_main(FINETUNE, [*argv, "--model", f"{tmp_path}/none"], "")
