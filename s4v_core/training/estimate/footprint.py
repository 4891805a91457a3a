"""Memory of one GPU in training, part by part, from the shape of the model. Plain arithmetic.

Derived, never fitted: what is not in here is named in `NOT_MODELLED`.
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

FP32, BF16 = 4, 2


@dataclass(frozen=True, slots=True)
class Weights:
    """Parameters by what becomes of them.

    Attributes:
        learning, frozen: Of the whole model, as they are stored (the vocabulary included).
        largest_parts: Of the two largest parts that are gathered whole: one is computed with
            while the next one arrives.
    """

    learning: int
    frozen: int
    largest_parts: int


@dataclass(frozen=True, slots=True)
class Load:
    """What one worker computes at once.

    Attributes:
        samples: Per micro-batch.
        tokens: Of each, image included.
        images: Per micro-batch.
        learnt: Labelled places per sample.
    """

    samples: int
    tokens: int
    images: int
    learnt: int
    vision_from: int | None
    activation_checkpointing: bool


def footprint(shape: Shape, weights: Weights, load: Load, workers: int) -> dict[str, int]:
    """Bytes on one GPU by component, at the peak in the backward pass."""
    places = load.samples * load.tokens
    learning_blocks = (
        0 if load.vision_from is None else max(shape.vision_blocks - load.vision_from, 0)
    )
    vision_places = load.images * shape.vision_places
    layer, block = _layer_bytes(shape, places), _block_bytes(shape, vision_places)
    kept = shape.layers * places * shape.width * BF16
    kept_vision = learning_blocks * vision_places * shape.vision_width * BF16
    if not load.activation_checkpointing:
        kept, kept_vision = shape.layers * layer, learning_blocks * block
        layer = block = 0
    return {
        "weights (fp32, sharded)": (weights.learning + weights.frozen) * FP32 // workers,
        "gradients (fp32, sharded)": weights.learning * FP32 // workers,
        "moments (2 x fp32, sharded)": weights.learning * 2 * FP32 // workers,
        "gathered weights (bf16, two parts)": weights.largest_parts * BF16,
        "gradients of one part before they are shared": weights.largest_parts // 2 * (BF16 + FP32),
        "kept activations, language model": kept,
        "kept activations, vision tower": kept_vision,
        "activations of the layer that is computed": max(layer, block),
        "logits of one chunk (fp32, with gradient)": _head_bytes(shape, load),
    }


def _layer_bytes(shape: Shape, places: int) -> int:
    """All that one layer of the language model keeps for its backward pass, in bf16.

    Inputs of the two norms, of q k v, of the output projection; q, k, v; gate, up, their product;
    the norms compute in fp32. Attention keeps no matrix (scaled_dot_product_attention).
    """
    wide = 5 * shape.width + 2 * shape.key_value_width + 3 * shape.mlp
    return places * (wide * BF16 + 2 * shape.width * FP32)


def _block_bytes(shape: Shape, places: int) -> int:
    wide = 8 * shape.vision_width + 2 * shape.vision_mlp
    return places * (wide * BF16 + 2 * shape.vision_width * FP32)


def _head_bytes(shape: Shape, load: Load) -> int:
    from_head = min(load.samples * load.learnt, 1024)
    return 3 * from_head * shape.vocabulary * FP32
