"""Estimates the memory that training needs on one GPU, part by part, from the model's sizes.

The estimate is derived and never fitted to measurements. `NOT_MODELLED` lists what it leaves out.
"""

from dataclasses import dataclass

from s4v_core.training.estimate.flops import Shape

NOT_MODELLED = (
    "what the allocator reserves and does not use (fragmentation, blocks kept for reuse)",
    "CUDA context, NCCL and cuBLAS workspaces",
    "buffers of the original's own sharding: it ran DeepSpeed ZeRO-3, which keeps up to 1e9 "
    "gathered parameters (stage3_max_live_parameters) and flat fp32 copies while it steps",
    "logits of all places in fp32, which the original holds and this project never does",
)

_FP32, _BF16 = 4, 2
"""Bytes of a number."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameter counts of a model.

    Attributes:
        learning: Parameters that learn, in the whole model.
        frozen: Parameters that do not learn, in the whole model.
        largest_parts: Parameters in the two largest FSDP units: one is being computed while the
            next one is gathered.
    """

    learning: int
    frozen: int
    largest_parts: int


@dataclass(frozen=True, slots=True)
class Load:
    """The size of one worker's micro-batch, and how it is computed.

    Attributes:
        samples: Number of samples in the micro-batch.
        tokens: Number of tokens of each sample, image included.
        images: Number of images in the micro-batch.
        learnt: Number of labelled positions of each sample.
        vision_from: First vision block that learns; None if none does.
        activation_checkpointing: Whether activations are computed again in the backward pass.
    """

    samples: int
    tokens: int
    images: int
    learnt: int
    vision_from: int | None
    activation_checkpointing: bool


def estimate_memory(shape: Shape, weights: Weights, load: Load, workers: int) -> dict[str, int]:
    """Bytes on one GPU by component, at the peak in the backward pass.

    Args:
        workers: Number of GPUs that weights are sharded over.
    """
    places = load.samples * load.tokens
    learning_blocks = (
        0 if load.vision_from is None else max(shape.vision_blocks - load.vision_from, 0)
    )
    vision_places = load.images * shape.vision_places
    layer, block = _count_layer_bytes(shape, places), _count_block_bytes(shape, vision_places)
    kept = shape.layers * places * shape.width * _BF16
    kept_vision = learning_blocks * vision_places * shape.vision_width * _BF16
    if not load.activation_checkpointing:
        kept, kept_vision = shape.layers * layer, learning_blocks * block
        layer = block = 0
    one_part = weights.largest_parts // 2
    return {
        "weights (fp32, sharded)": (weights.learning + weights.frozen) * _FP32 // workers,
        "gradients (fp32, sharded)": weights.learning * _FP32 // workers,
        "moments (2 x fp32, sharded)": weights.learning * 2 * _FP32 // workers,
        "gathered weights (bf16, two parts)": weights.largest_parts * _BF16,
        "gradients of one part before they are shared": one_part * (_BF16 + _FP32),
        "kept activations, language model": kept,
        "kept activations, vision tower": kept_vision,
        "activations of the layer that is computed": max(layer, block),
        "logits of one chunk (fp32, with gradient)": _count_head_bytes(shape, load),
    }


def _count_layer_bytes(shape: Shape, places: int) -> int:
    """Bytes that one layer of the language model keeps for its backward pass.

    In bf16 these are the inputs of the two norms, of q, k and v, and of the output projection; q,
    k and v; gate, up and their product. The norms compute in fp32. Attention keeps no matrix
    (scaled_dot_product_attention).
    """
    wide = 5 * shape.width + 2 * shape.key_value_width + 3 * shape.mlp
    return places * (wide * _BF16 + 2 * shape.width * _FP32)


def _count_block_bytes(shape: Shape, places: int) -> int:
    wide = 8 * shape.vision_width + 2 * shape.vision_mlp
    return places * (wide * _BF16 + 2 * shape.vision_width * _FP32)


def _count_head_bytes(shape: Shape, load: Load) -> int:
    from_head = min(load.samples * load.learnt, 1024)
    return 3 * from_head * shape.vocabulary * _FP32
