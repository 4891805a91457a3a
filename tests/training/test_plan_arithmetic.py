"""Numbers that the plan derives from a model's sizes, against torch's own count of them."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import CLIPVisionConfig, Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration
from transformers.models.clip.modeling_clip import CLIPEncoderLayer
from transformers.models.llama.modeling_llama import LlamaDecoderLayer, LlamaRotaryEmbedding
from transformers.models.qwen2_5_vl.modeling_qwen2_5_vl import Qwen2_5_VLVisionBlock

from s4v_core.model.builders import build_sharegpt4v_7b_config
from s4v_core.recipes import FINETUNE
from s4v_core.training.arithmetic.shapes import read_patch_shape, read_shape
from s4v_core.training.estimate import footprint
from s4v_core.training.estimate.choices import count_samples_at_once
from s4v_core.training.estimate.footprint import Load, count_layer_inputs
from s4v_core.training.estimate.forecast import forecast_stage
from s4v_core.training.lora import Lora
from s4v_core.training.stage import Learning
from s4v_core.training.worker.adapters import _add_adapter

PLACES = 256
DTYPES = (torch.float32, torch.bfloat16)


def _build_configs() -> tuple[Any, Any]:
    """A LLaVA with grouped keys and a Qwen2.5-VL, in sizes in which nothing small counts."""
    llava = build_sharegpt4v_7b_config()
    for part in (llava.text_config, llava.vision_config):
        part.hidden_size, part.intermediate_size, part.num_attention_heads = 512, 1376, 8
        part._attn_implementation = "sdpa"
    llava.text_config.num_key_value_heads, llava.text_config.head_dim = 2, 64
    qwen = Qwen2_5_VLConfig(
        vision_config={
            "depth": 4, "hidden_size": 512, "intermediate_size": 1376, "num_heads": 8,
            "out_hidden_size": 256, "fullatt_block_indexes": [1],
        },
        text_config={
            "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 3,
            "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 640,
            "rope_parameters": {
                "rope_type": "default", "rope_theta": 1e6, "mrope_section": [8, 12, 12],
            },
        },
        image_token_id=600, video_token_id=601, vision_start_token_id=602,
    )  # fmt: skip
    return llava, qwen


def _count_kept(run: Callable[[], object], module: nn.Module) -> float:
    """Bytes by position that the backward pass of a module needs, its weights aside."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    kept: dict[int, int] = {}
    tensors = []  # alive until all are counted, so that no place in memory is used twice

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
            tensors.append(tensor)
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        result = run()
    del result
    return sum(kept.values()) / PLACES


def _input(width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.randn(1, PLACES, width, dtype=dtype, requires_grad=True) * 1


def _load(dtype: torch.dtype, layer_inputs: int) -> Load:
    return Load(1, PLACES, 1, 1, None, False, layer_inputs, dtype.itemsize, False)


LEARNERS: dict[str, dict[str, Any]] = {
    "weights": {},
    "nothing": {"learning": Learning(language=False)},
    "adapters": {"lora": Lora(rank=16)},
    "some adapters": {"lora": Lora(rank=16, targets=("k_proj", "o_proj"))},
    "other adapters": {"lora": Lora(rank=16, targets=("up_proj", "down_proj"))},
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("changes", LEARNERS.values(), ids=LEARNERS)
def test_a_language_layer_keeps_what_the_plan_says(
    changes: dict[str, Any], dtype: torch.dtype
) -> None:
    config, _ = _build_configs()
    job = FINETUNE["paper"].replace(**changes)
    layer: Any = LlamaDecoderLayer(config.text_config, 0).to(dtype).train()
    layer.requires_grad_(job.learning.language and not job.lora.rank)
    for name, part in list(layer.named_modules()):
        if job.lora.rank and name.rpartition(".")[2] in job.lora.targets:
            _add_adapter(part, job.lora)
    positions = torch.arange(PLACES)[None]
    hidden = _input(512, dtype)
    rotation = LlamaRotaryEmbedding(config.text_config)(hidden, positions)
    kept = _count_kept(lambda: layer(hidden, position_embeddings=rotation), layer)
    shape = read_shape(config)
    found = footprint._count_layer_bytes(shape, _load(dtype, count_layer_inputs(shape, job)))
    assert kept == pytest.approx(found, rel=0.03)


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_vision_block_keeps_what_the_plan_says(dtype: torch.dtype) -> None:
    llava, qwen = _build_configs()
    clip = CLIPEncoderLayer(CLIPVisionConfig(**llava.vision_config.to_dict()))
    clip.self_attn.config._attn_implementation = "sdpa"
    clip.to(dtype).train()
    pixels = _input(512, dtype)
    kept = _count_kept(lambda: clip(pixels, attention_mask=None), clip)
    assert kept == pytest.approx(
        footprint._count_block_bytes(read_shape(llava), _load(dtype, 0)), rel=0.03
    )
    qwen.vision_config._attn_implementation = "sdpa"
    block: Any = Qwen2_5_VLVisionBlock(qwen.vision_config).to(dtype).train()
    patches = _input(512, dtype)[0]
    windows = torch.arange(0, PLACES + 1, 64)
    rotation = torch.randn(PLACES, 64), torch.randn(PLACES, 64)
    kept = _count_kept(
        lambda: block(patches, cu_seqlens=windows, position_embeddings=rotation), block
    )
    shape = read_patch_shape(qwen, 64)
    assert kept == pytest.approx(footprint._count_block_bytes(shape, _load(dtype, 0)), rel=0.03)


@contextmanager
def _count_operations() -> Iterator[FlopCounterMode]:
    """Counts those of attention, too, which torch does not see inside its kernel for CPUs."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter, torch.no_grad():
        yield counter


def test_operations_of_a_qwen_are_those_that_torch_counts() -> None:
    _, config = _build_configs()
    with torch.device("meta"):
        model: Any = Qwen2_5_VLForConditionalGeneration(config)
    model = model.to_empty(device="cpu")
    for module in model.modules():  # to_empty leaves garbage in the tables of angles
        if type(module).__name__.endswith("RotaryEmbedding"):
            fresh = type(module)(config=module.config)
            for name, buffer in module.named_buffers():
                buffer.copy_(fresh.get_buffer(name))
    tokens, text = 64, 96  # a picture of 16 x 16 patches, four whole windows
    shape = read_patch_shape(config, tokens)
    patches = torch.randn(4 * tokens, 3 * 2 * 14**2)
    with _count_operations() as counter:
        model.model.visual(patches, grid_thw=torch.tensor([[1, 16, 16]]))
    wanted = shape.vision_blocks * shape.count_block_flops()
    wanted += shape.count_stem_flops() + shape.count_projector_flops()
    assert counter.get_total_flops() == pytest.approx(wanted, rel=1e-6)
    with _count_operations() as counter:
        model(input_ids=torch.ones(1, text, dtype=torch.long))
    assert counter.get_total_flops() == pytest.approx(
        shape.count_language_flops(text), rel=1e-4
    )  # the angles of the positions are not counted


def test_switches_of_sharding_change_what_is_gathered() -> None:
    name = "gathered weights (bf16)"
    whole = FINETUNE["paper"].replace(workers=16, accelerator="A100-80G")

    def gathered(**changes: Any) -> int:
        return forecast_stage(whole.replace(**changes)).own.components[name]

    layer, head = 202_383_360, 32_064 * 4096
    root = 4096 + 20_979_712 + 1_198_080  # the last norm, projector, stem
    assert gathered() == pytest.approx(2 * (2 * layer + root), rel=1e-3)
    assert gathered(prefetch=3) == pytest.approx(2 * (4 * layer + root), rel=1e-3)
    assert gathered(replicas=2) == gathered()
    kept = gathered(reshard_after_forward=False)
    assert kept == pytest.approx(2 * (32 * layer + 2 * head + 12_596_224 + root), rel=1e-3)
    states = forecast_stage(whole.replace(replicas=2)).own.components
    halved = forecast_stage(whole).own.components
    for state in [name for name in states if "sharded" in name]:
        assert states[state] == pytest.approx(2 * halved[state], rel=1e-3)


def test_adapters_need_gradients_and_moments_of_their_own_alone() -> None:
    job = FINETUNE["paper"].replace(
        workers=8, accelerator="A100-80G", lora=Lora(rank=64, alpha=128)
    )
    found = forecast_stage(job)
    adapters = 32 * 64 * (4 * (4096 + 4096) + 3 * (4096 + 11008))
    assert sum(found.own.learning.values()) == adapters
    assert found.parameters == 7_063_427_072
    assert found.own.components["gradients (fp32, sharded)"] == 4 * adapters // 8
    whole = 4 * (7_063_427_072 + adapters) // 8
    assert found.own.components["weights (fp32, sharded)"] == pytest.approx(whole, rel=1e-4)
    assert found.flops_per_sample < 0.7 * forecast_stage(FINETUNE["paper"]).flops_per_sample


def test_a_small_step_gives_each_worker_less_than_it_could_take() -> None:
    job = FINETUNE["paper"].replace(workers=16, batch_size=64, device_batch_size=8)
    assert count_samples_at_once(job) == 4
    assert count_samples_at_once(job.replace(batch_size=128)) == 8
