"""Settings of large models, with vLLM's CPU build on the demo captioner: several processes, an
adapter, guessed tokens. Each starts real engines, which takes a minute and more."""

import asyncio
import json
import shutil
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from s4v_core import prompts
from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.job import CaptionJob
from s4v_core.demo.scene_files import write_lessons, write_scenes
from s4v_core.demo.shipped import CAPTIONER
from s4v_core.engines.choice import build_engine, choose_engine
from s4v_core.engines.requests import Engine, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Decoded
from s4v_core.model.checkpoint_facts import read_facts
from s4v_core.recipes import FINETUNE
from s4v_core.runs.outcome import DONE
from s4v_core.training.lora import LANGUAGE_TARGETS, PROJECTOR_TARGETS, Lora
from s4v_core.training.run import run_stage
from s4v_core.training.stage import Optimiser
from tests.flow.oracle import check_rows

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCENES, RANK, ALPHA = 12, 4, 8
GREEDY = SamplingConfig(max_tokens=48, temperature=0.0, stop_at_loops=False)


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("drawn") / "scenes"
    write_scenes(folder, SCENES)
    return folder


def _caption(scenes: Path, output: Path, **settings: Any) -> dict[str, dict]:
    job = CaptionJob(
        input=(str(scenes),),
        output=str(output),
        model=str(CAPTIONER),
        engine="vllm",
        sampling=GREEDY,
        settings=EngineSettings(max_num_seqs=8, **settings),
    )
    assert run_pass(job).exit_code == DONE
    return {row["image_id"]: row for row in check_rows(output)}


def test_two_processes_give_the_captions_of_one(
    local_ray: None, scenes: Path, tmp_path: Path
) -> None:
    one = _caption(scenes, tmp_path / "one")
    two = _caption(scenes, tmp_path / "two", gpus_per_engine=2)
    assert len(one) == SCENES
    assert len({row["caption"] for row in one.values()}) > SCENES / 2
    assert {n: row["caption"] for n, row in one.items()} == {
        n: row["caption"] for n, row in two.items()
    }
    assert {row["engine_settings"] for row in one.values()} == {None}
    assert {row["engine_settings"] for row in two.values()} == {'{"gpus_per_engine": 2}'}
    with pytest.raises(ConfigError, match=r"made with engine_settings \{'gpus_per_engine': 2\}"):
        _caption(scenes, tmp_path / "two")


def _write_adapter(folder: Path) -> dict[str, torch.Tensor]:
    """Write a LoRA adapter with random weights; return what it adds to the captioner's weights."""
    chance = torch.Generator().manual_seed(0)
    weights = load_file(CAPTIONER / "model.safetensors")
    added, files = {}, {}
    for name, weight in weights.items():
        if not name.endswith(("q_proj.weight", "v_proj.weight")) or "language" not in name:
            continue
        high, wide = weight.shape
        down = torch.randn(RANK, wide, generator=chance) * 0.15
        up = torch.randn(high, RANK, generator=chance) * 0.15
        # Adapters name the modules of transformers' classes, checkpoints those of older ones.
        module = name.removesuffix(".weight").replace(
            "language_model.model", "model.language_model"
        )
        files[f"base_model.model.{module}.lora_A.weight"] = down
        files[f"base_model.model.{module}.lora_B.weight"] = up
        added[name] = up @ down * (ALPHA / RANK)
    folder.mkdir()
    save_file(files, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": ALPHA, "bias": "none"}
    config |= {"target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return added


def _merge(added: dict[str, torch.Tensor], folder: Path) -> None:
    """A copy of the captioner with the adapter in its weights."""
    shutil.copytree(CAPTIONER, folder)
    weights = load_file(CAPTIONER / "model.safetensors")
    whole = {name: w.float() + added.get(name, 0) for name, w in weights.items()}
    save_file(whole, folder / "model.safetensors", {"format": "pt"})


def _ask(engine: Engine, scenes: Path) -> list[str | None]:
    """The captions of all scenes by one engine, which is closed then."""
    decoder = GuardedDecoder(DecodeConfig(), read_facts(str(CAPTIONER)).framing)
    requests = []
    with tarfile.open(next(scenes.glob("*.tar"))) as tar:
        for member in tar:
            if not member.name.endswith(".jpg"):
                continue
            file = tar.extractfile(member)
            assert file is not None
            found = decoder.decode(file.read())
            assert isinstance(found, Decoded)
            shape = (found.pixel_height, found.pixel_width, 3)
            picture = np.frombuffer(found.pixels, np.uint8).reshape(shape)
            requests.append(Request(member.name, member.name, (picture,), prompts.CAPTION))
    assert len(requests) == SCENES

    async def ask_all() -> list[str | None]:
        found = await asyncio.gather(*(engine.generate(r, GREEDY) for r in requests))
        return [answer.text for answer in found]

    try:
        return asyncio.run(ask_all())
    finally:
        engine.close()


def _build(model: Path, engine: Any, **settings: Any) -> Engine:
    chosen = EngineSettings(max_num_seqs=8, **settings)
    return build_engine(choose_engine(engine, str(model), "vicuna_v1", chosen))


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_an_adapter_gives_the_captions_of_the_weights_that_it_adds_to(
    scenes: Path, tmp_path: Path, engine: str
) -> None:
    if engine == "transformers":
        pytest.importorskip("peft")
    added = _write_adapter(tmp_path / "adapter")
    assert len(added) == 8
    _merge(added, tmp_path / "merged")
    plain = _ask(_build(CAPTIONER, "transformers"), scenes)
    merged = _ask(_build(tmp_path / "merged", "transformers"), scenes)
    assert sum(a != b for a, b in zip(plain, merged, strict=True)) > SCENES / 2
    tuned = _ask(_build(CAPTIONER, engine, adapter=str(tmp_path / "adapter")), scenes)
    assert tuned == merged


def _merge_trained(adapter: Path, folder: Path) -> None:
    """A copy of the captioner with a trained adapter in its weights, in fp32."""
    config = json.loads((adapter / "adapter_config.json").read_text())
    matrices = load_file(adapter / "adapter_model.safetensors")
    added = {}
    for name in [name for name in matrices if ".lora_A." in name]:
        module = name.removeprefix("base_model.model.model.").removesuffix(".lora_A.weight")
        disk = module.replace("language_model.", "language_model.model.") + ".weight"
        up = matrices[name.replace(".lora_A.", ".lora_B.")]
        added[disk] = up @ matrices[name] * (config["lora_alpha"] / config["r"])
    assert added.keys() <= load_file(CAPTIONER / "model.safetensors").keys()
    _merge(added, folder)


@pytest.mark.parametrize("engine", ["vllm", "transformers"])
def test_a_trained_adapter_gives_the_captions_of_the_merged_weights(
    scenes: Path, tmp_path: Path, engine: str
) -> None:
    if engine == "transformers":
        pytest.importorskip("peft")
    # vLLM 0.32 has no adapters of LLaVA's projector: `tests/engines` holds how they are refused.
    more = () if engine == "vllm" else PROJECTOR_TARGETS
    write_lessons(tmp_path / "lessons", 64, seed=3)
    job = FINETUNE["demo"].replace(
        data=(str(tmp_path / "lessons" / "briefs.json"),),
        images=(str(tmp_path / "lessons"),),
        output=str(tmp_path / "run"),
        lora=Lora(rank=8, alpha=32, targets=(*LANGUAGE_TARGETS, *more)),
        optimiser=Optimiser(learning_rate=1e-2),
        demo_scenes=0,
        max_steps=4,
        epochs=2,
        loader_workers=0,
    )
    outcome = run_stage(job)
    assert outcome.exit_code == 0
    adapter = tmp_path / "run" / "adapter"
    _merge_trained(adapter, tmp_path / "merged")
    plain = _ask(_build(CAPTIONER, "transformers"), scenes)
    merged = _ask(_build(tmp_path / "merged", engine), scenes)
    assert sum(a != b for a, b in zip(plain, merged, strict=True)) > SCENES / 2
    assert _ask(_build(CAPTIONER, engine, adapter=str(adapter)), scenes) == merged


def test_guessed_tokens_change_no_greedy_caption(scenes: Path) -> None:
    guess = {"method": "ngram", "num_speculative_tokens": 3, "prompt_lookup_max": 4}
    plain = _ask(_build(CAPTIONER, "transformers"), scenes)
    guessed = _ask(
        _build(CAPTIONER, "vllm", speculative=guess, engine_args={"block_size": 64}), scenes
    )
    assert guessed == plain
