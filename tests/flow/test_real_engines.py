"""vLLM's CPU build and transformers, end to end on the same untrained checkpoint."""

import asyncio
import importlib.util
import json
import os
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest

from s4v_core import storage
from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.choice import build_engine, choose_engine
from s4v_core.engines.requests import Generator, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import EngineError
from s4v_core.model.checkpoint_facts import read_facts
from s4v_core.recipes import CAPTION
from s4v_core.records.captions import caption_units
from s4v_core.runs.outcome import DONE
from s4v_core.runs.status import read_status
from tests.conftest import SHARED_DATA, write_tar
from tests.flow.oracle import check_rows

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(500)]

GREEDY = SamplingConfig(max_tokens=24, stop_at_loops=False)


@pytest.fixture(scope="module")
def shard(tmp_path_factory: pytest.TempPathFactory, photos: dict[str, bytes]) -> Path:
    """A shard of drawn photographs, photographs from scikit-image and, if it exists, from
    ../shared, and one file that is no image."""
    spec = importlib.util.find_spec("skimage")
    assert spec is not None
    assert spec.origin is not None
    shipped = Path(spec.origin).parent / "data"
    paths = [shipped / n for n in ("astronaut.png", "coffee.png", "chelsea.png", "rocket.jpg")]
    if (SHARED_DATA / "photos").exists():
        paths += sorted((SHARED_DATA / "photos").glob("*.jpg"))[:24]
    members = photos | {path.name: path.read_bytes() for path in paths} | {"none.jpg": b"<html>"}
    return write_tar(tmp_path_factory.mktemp("real") / "0000.tar", members)


def _caption(
    shard: Path, output: Path, checkpoint: Path | str, engine: str, **changes: object
) -> dict[str, dict]:
    job = CaptionJob(
        input=(str(shard),),
        output=str(output),
        model=str(checkpoint),
        engine=engine,  # type: ignore[arg-type]
        sampling=GREEDY,
        gate=Gate(enabled=False),  # an untrained captioner says nothing that passes it
        settings=EngineSettings(max_model_len=2048, max_num_seqs=16),
        **changes,  # type: ignore[arg-type]
    )
    assert run_pass(job).exit_code == DONE
    return {row["image_id"]: row for row in check_rows(output)}


def test_vllm_and_transformers_caption_the_same_images_alike(
    shard: Path, checkpoint: Path, tmp_path: Path
) -> None:
    ours = _caption(shard, tmp_path / "vllm", checkpoint, "vllm")
    reference = _caption(shard, tmp_path / "transformers", checkpoint, "transformers")
    assert ours.keys() == reference.keys()
    assert ours["0000/none"]["reason"] == reference["0000/none"]["reason"] == "not_an_image"
    good = [name for name, row in ours.items() if row["status"] == "ok"]
    assert len(good) == len(ours) - 1
    same = sum(ours[name]["caption"] == reference[name]["caption"] for name in good)
    assert same >= 0.95 * len(good)
    assert len({ours[name]["caption"] for name in good}) > 0.9 * len(good)
    for name in good:
        assert ours[name]["engine"].startswith("vllm 0.32")
        assert ours[name]["prompt_tokens"] == reference[name]["prompt_tokens"]
        assert ours[name]["output_tokens"] <= GREEDY.max_tokens
        assert ours[name]["model_revision"].startswith("sha256:")


def test_a_captioner_may_lie_in_a_store(
    photos: dict[str, bytes], checkpoint: Path, bucket: str, tmp_path: Path
) -> None:
    for path in checkpoint.iterdir():
        storage.replace(f"{bucket}/models/untrained/{path.name}", path.read_bytes())
    shard = write_tar(tmp_path / "0000.tar", dict(list(photos.items())[:4]))
    model = f"{bucket}/models/untrained"
    rows = _caption(shard, tmp_path / "out", model, "transformers", unit_size=2)
    assert {row["status"] for row in rows.values()} == {"ok"}
    assert {row["model"] for row in rows.values()} == {model}
    assert {row["model_revision"] for row in rows.values()} == {read_facts(model).revision}
    scratch = Path(os.environ["S4V_SCRATCH"])
    assert len(list(scratch.glob("checkpoints/*/model.safetensors"))) == 1


def test_an_engine_that_cannot_load_its_weights_ends_the_job_with_a_sentence(
    shard: Path, tmp_path: Path, checkpoint: Path
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for path in checkpoint.iterdir():
        data = path.read_bytes()
        (broken / path.name).write_bytes(data[:1000] if path.suffix == ".safetensors" else data)
    with pytest.raises(EngineError, match="cannot load"):
        _caption(shard, tmp_path / "out", broken, "transformers")
    assert not list((tmp_path / "out" / "captions").glob("*.parquet"))


@pytest.mark.slow
def test_vllm_says_how_full_it_was_and_what_limited_it(tmp_path: Path) -> None:
    job = CAPTION["demo"].replace(
        input=(str(tmp_path / "scenes"),),
        output=str(tmp_path / "out"),
        demo_scenes=48,
        unit_size=16,
        engine="vllm",
        gate=Gate(enabled=False),  # one answer per row, so that rows and steps hold the same tokens
        settings=EngineSettings(max_num_seqs=8, units_in_flight=3),
    )
    assert run_pass(job).exit_code == DONE
    rows = check_rows(tmp_path / "out")
    engine = json.loads((tmp_path / "out" / "stats.json").read_text())["engine_load"]
    assert (engine["device"], engine["places"], engine["requests"]) == ("cpu", 8, 48)
    assert 4 < engine["running"] <= 8
    assert 0 <= engine["waiting"] <= 5  # nine requests are let in at once
    assert 0 < engine["kv_cache_use"] < engine["kv_cache_peak"] <= 1
    for kind in ("prompt", "output"):
        per_step = sum(row[f"{kind}_tokens"] for row in rows) / engine["steps"]
        assert engine[f"{kind}_tokens_per_step"] == pytest.approx(per_step, abs=0.001)
    assert engine["steps"] >= sum(row["output_tokens"] for row in rows) / 8
    assert (
        0
        < engine["busy_s"]
        == pytest.approx(engine["ms_per_step"] * engine["steps"] / 1000, rel=0.1)
    )
    assert engine["preemptions"] == 0
    assert engine["prefix_hit_rate"] is None
    assert engine["limit"] in ("decode", "prefill", "requests", "preparation")
    text = read_status(caption_units(str(tmp_path / "out"))).as_text()
    assert f"bound by engine ({engine['limited_by']}; ms per image: " in text
    assert "\nengine: sequences a step " in text
    assert "<h2>Engine</h2>" in (tmp_path / "out" / "report.html").read_text()


@pytest.mark.slow
def test_an_engine_killed_in_mid_run_is_replaced_and_costs_no_caption(
    shard: Path, checkpoint: Path, tmp_path: Path
) -> None:
    killed: list[int] = []

    def kill_once() -> None:
        while not list((tmp_path / "out" / "captions").glob("*.parquet")):
            time.sleep(0.01)
        for process in psutil.process_iter(["name", "cmdline"]):
            if "EngineCore" in " ".join(process.info["cmdline"] or [process.info["name"]]):
                process.kill()
                killed.append(process.pid)

    threading.Thread(target=kill_once, daemon=True).start()
    rows = _caption(shard, tmp_path / "out", checkpoint, "vllm", unit_size=2)
    assert len(killed) == 1
    wanted = _caption(shard, tmp_path / "wanted", checkpoint, "vllm")
    assert {n: row["caption"] for n, row in rows.items()} == {
        n: row["caption"] for n, row in wanted.items()
    }
    assert {row["reason"] for row in rows.values()} == {None, "not_an_image"}


@pytest.mark.slow
def test_the_ladder_repairs_captions_that_were_made_to_loop(tmp_path: Path) -> None:
    job = CAPTION["demo"].replace(
        input=(str(tmp_path / "scenes"),),
        output=str(tmp_path / "out"),
        demo_scenes=100,
        sampling=SamplingConfig(max_tokens=96, repetition_penalty=0.2),  # rewards repetition
    )
    outcome = run_pass(job)
    rows = check_rows(tmp_path / "out")
    looped = [row for row in rows if row["attempts"] > 1]
    assert len(looped) >= 20
    assert sum(row["status"] == "ok" for row in looped) >= len(looped) / 2
    figures = outcome.as_dict()
    assert figures["ok_rows_per_s"] < figures["attempts_per_s"]


def test_seeded_draws_are_the_same_where_prompts_take_several_steps(checkpoint: Path) -> None:
    chance = np.random.default_rng(0)
    pictures = [chance.integers(0, 255, (56, 56, 3), dtype=np.uint8) for _ in range(24)]
    requests = [Request(f"{n}", f"{n}", (one,), "What is it?") for n, one in enumerate(pictures)]
    how = SamplingConfig(max_tokens=8, temperature=1.0, stop_at_loops=False)

    async def draw(engine: Generator) -> list[str]:
        return [
            one.text for one in await asyncio.gather(*(engine.generate(r, how) for r in requests))
        ]

    drawn = []
    for tokens_in_a_step in (4096, 128):
        settings = EngineSettings(max_model_len=512, max_num_batched_tokens=tokens_in_a_step)
        engine = build_engine(choose_engine("vllm", str(checkpoint), "vicuna_v1", settings))
        try:
            drawn.append(asyncio.run(draw(engine)))
        finally:
            engine.close()
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) > 1
