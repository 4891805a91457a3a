"""Settings of engines: what is refused and in which words, and what becomes of the rest."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from s4v_core.engines.choice import choose_engine
from s4v_core.engines.fitness import refuse_unfit_checkpoint
from s4v_core.engines.model_shape import ModelShape
from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.engines.vllm_arguments import build_engine_args, refuse_small_steps
from s4v_core.errors import ConfigError
from s4v_core.installed_names import (
    list_engine_arguments,
    list_kv_cache_types,
    list_model_types,
    list_multimodal_architectures,
    list_quantizations,
)

SHAPE = ModelShape("any", 4096, 1024)
"""The sizes that arguments depend on."""

NGRAM = {"method": "ngram", "num_speculative_tokens": 2, "prompt_lookup_max": 4}


def _spec(device: str = "gpu", **settings: object) -> EngineSpec:
    chosen = EngineSettings.model_validate(settings)
    return EngineSpec("vllm", "org/name", "model", chosen, device)  # type: ignore[arg-type]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / "adapter_config.json").write_text(json.dumps({"peft_type": "LORA", "r": 12}))
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"gpus_per_engine": 0}, "gpus_per_engine: found 0"),
        ({"encoder_data_parallel": True}, "encoder_data_parallel: needs an engine with several"),
        ({"speculative": "{"}, "settings.speculative: found '{', which is no JSON"),
        ({"speculative": "[1]"}, r"settings.speculative: found '\[1\]', allowed a JSON object"),
        ({"mm_processor_kwargs": "7"}, "settings.mm_processor_kwargs: found '7', allowed a JSON"),
        ({"engine_args": '{"block_sise": 3}'}, "no argument of .*; did you mean 'block_size'?"),
        ({"engine_args": '{"_api_process_count": 3}'}, "which is no argument of vllm.AsyncEngineA"),
        ({"engine_args": '{"tensor_parallel_size": 2}'}, "use --settings.gpus-per-engine instead"),
        ({"engine_args": '{"revision": "a"}'}, "use --revision instead"),
        ({"engine_args": '{"trust_remote_code": true}'}, "which is fixed: code that a checkpoint"),
        ({"quantization": "fp9"}, "settings.quantization: found 'fp9', allowed .*fp8"),
        ({"kv_cache_dtype": "fp9"}, "settings.kv_cache_dtype: found 'fp9', allowed auto, .*fp8"),
    ],
)
def test_values_that_cannot_be_meant_are_refused_in_one_sentence(
    settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as error:
        EngineSettings.model_validate(settings)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("engine", "settings", "sentence"),
    [
        ("transformers", {"gpus_per_engine": 2}, "found 2, which engine transformers cannot use"),
        ("transformers", {"engine_args": '{"block_size": 16}'}, "engine transformers cannot use"),
        ("openai", {"quantization": "fp8", "url": "http://x/v1"}, "where the endpoint is started"),
        ("openai", {"adapter": "org/lora", "url": "http://x/v1"}, "engine openai cannot use"),
        ("fake", {"gpus_per_engine": 2}, "engine fake cannot use; leave it out"),
        ("vllm", {"nodes_per_engine": 2, "device": "cpu"}, "found 2, allowed 1 on a CPU"),
        ("vllm", {"adapter": "/nowhere"}, "settings.adapter: no such folder: /nowhere"),
    ],
)
def test_settings_that_an_engine_cannot_use_are_refused_by_name(
    engine: Any, settings: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        choose_engine(engine, "m", "model", EngineSettings.model_validate(settings))


def test_an_adapter_must_be_one_and_its_files_are_its_revision(
    adapter: Path, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="json; name the folder or hub id of a LoRA"):
        choose_engine("vllm", "m", "model", EngineSettings(adapter=str(tmp_path)))
    settings = EngineSettings(adapter=str(adapter))
    spec = choose_engine("vllm", "m", "model", settings)
    assert spec.answer_settings == {
        "adapter": str(adapter),
        "adapter_revision": spec.adapter_revision,
    }
    (adapter / "adapter_model.safetensors").write_bytes(b"other")
    again = choose_engine("vllm", "m", "model", settings)
    assert spec.adapter_revision != again.adapter_revision


def test_an_adapter_of_engine_transformers_needs_its_package(adapter: Path) -> None:
    try:
        metadata.version("peft")
    except metadata.PackageNotFoundError:
        with pytest.raises(ConfigError, match="needs the package peft for it; install peft"):
            choose_engine("transformers", "m", "model", EngineSettings(adapter=str(adapter)))
    else:
        spec = choose_engine("transformers", "m", "model", EngineSettings(adapter=str(adapter)))
        assert spec.adapter_revision


def test_only_what_can_change_an_answer_is_recorded() -> None:
    assert _spec(max_num_seqs=3, kv_cache_gib=2, cpus=9, silence_limit_s=1).answer_settings == {}
    spec = _spec(gpus_per_engine=2, quantization="fp8", speculative=json.dumps(NGRAM))
    assert spec.answer_settings == {
        "gpus_per_engine": 2,
        "quantization": "fp8",
        "speculative": NGRAM,
    }
    assert _spec(dtype="bfloat16", engine_args={"block_size": 32}).answer_settings == {
        "dtype": "bfloat16",
        "engine_args": {"block_size": 32},
    }


def test_settings_become_the_arguments_of_vllm(adapter: Path) -> None:
    plain = build_engine_args(_spec(), SHAPE)
    assert (plain.tensor_parallel_size, plain.distributed_executor_backend) == (1, "uni")
    assert plain.mm_encoder_tp_mode == "weights"
    wide = build_engine_args(
        _spec(
            gpus_per_engine=4,
            encoder_data_parallel=True,
            quantization="fp8",
            kv_cache_dtype="fp8",
            speculative=NGRAM,
            mm_processor_kwargs={"max_pixels": 1003520},
            engine_args={"block_size": 32},
            kv_cache_gib=3,
        ),
        SHAPE,
    )
    assert (wide.tensor_parallel_size, wide.distributed_executor_backend) == (4, "mp")
    assert (wide.mm_encoder_tp_mode, wide.quantization, wide.block_size) == ("data", "fp8", 32)
    assert (wide.kv_cache_dtype, wide.kv_cache_memory_bytes) == ("fp8", 3 << 30)
    assert wide.speculative_config == NGRAM
    assert wide.mm_processor_kwargs == {"max_pixels": 1003520}
    nodes = build_engine_args(_spec(gpus_per_engine=8, nodes_per_engine=2), SHAPE)
    assert (nodes.pipeline_parallel_size, nodes.distributed_executor_backend) == (2, "ray")
    tuned = build_engine_args(_spec(adapter=str(adapter)), SHAPE)
    assert (tuned.enable_lora, tuned.max_lora_rank) == (True, 16)


def test_an_adapter_that_is_too_wide_is_refused(adapter: Path) -> None:
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 8, "rank_pattern": {"q": 999}}))
    with pytest.raises(ConfigError, match="has the rank 999, allowed 1 to 512"):
        build_engine_args(_spec(adapter=str(adapter)), SHAPE)


def test_processes_on_a_cpu_share_its_memory() -> None:
    one, two = (_spec("cpu", max_num_seqs=8, gpus_per_engine=n) for n in (1, 2))
    sizes = [build_engine_args(spec, SHAPE).kv_cache_memory_bytes for spec in (one, two)]
    assert sizes == [8 * 4096 * 1024 * 4, 4 * 4096 * 1024 * 4]
    assert _spec("cpu", cpus=1, gpus_per_engine=2).settings.reserved_cpus == 2


def test_a_step_holds_at_least_one_image() -> None:
    refuse_small_steps(EngineSettings(), 4000)
    refuse_small_steps(EngineSettings(max_num_batched_tokens=4000), 4000)
    with pytest.raises(ConfigError, match="found 3999, needed at least 4000"):
        refuse_small_steps(EngineSettings(max_num_batched_tokens=3999), 4000)


def test_a_way_of_quantizing_that_vllm_lacks_is_named() -> None:
    refuse_unfit_checkpoint("vllm", "org/name", None)
    refuse_unfit_checkpoint("vllm", "org/name", "fp8")
    refuse_unfit_checkpoint("transformers", "org/name", "bitsandbytes")
    with pytest.raises(ConfigError, match="is quantized by bitsandbytes, which the installed vLL"):
        refuse_unfit_checkpoint("vllm", "org/name", "bitsandbytes")


def test_names_read_from_the_source_files_are_those_of_the_packages() -> None:
    from dataclasses import fields
    from typing import get_args

    from transformers.models.auto.configuration_auto import CONFIG_MAPPING_NAMES
    from vllm import AsyncEngineArgs
    from vllm.config.cache import CacheDType
    from vllm.model_executor.layers.quantization import QuantizationMethods
    from vllm.model_executor.models.registry import _MULTIMODAL_MODELS
    from vllm.transformers_utils.config import _CONFIG_REGISTRY

    assert list_engine_arguments() == {field.name for field in fields(AsyncEngineArgs)}
    assert list_kv_cache_types() == set(get_args(CacheDType))
    assert list_quantizations() == set(get_args(QuantizationMethods))
    assert list_model_types() >= set(CONFIG_MAPPING_NAMES) | set(_CONFIG_REGISTRY)
    assert list_multimodal_architectures() >= set(_MULTIMODAL_MODELS)


@pytest.mark.parametrize(
    ("layer", "is_served"),
    [
        ("model.language_model.layers.0.self_attn.q_proj", True),
        ("model.layers.0.mlp.up_proj", True),
        ("model.multi_modal_projector.linear_1", False),
        ("model.vision_tower.encoder.layers.0.self_attn.q_proj", False),
        ("model.visual.merger.mlp.0", False),
    ],
)
def test_an_adapter_that_vllm_would_serve_in_part_is_refused(
    adapter: Path, layer: str, is_served: bool
) -> None:
    tensors = {f"base_model.model.{layer}.lora_A.weight": np.zeros((12, 4), np.float32)}
    save_file(tensors, adapter / "adapter_model.safetensors")
    if is_served:
        build_engine_args(_spec(adapter=str(adapter)), SHAPE)
        return
    with pytest.raises(ConfigError, match="has layers before the language model, which vLLM"):
        build_engine_args(_spec(adapter=str(adapter)), SHAPE)
    asked = {"enable_tower_connector_lora": True}
    found = build_engine_args(_spec(adapter=str(adapter), engine_args=asked), SHAPE)
    assert found.enable_tower_connector_lora
