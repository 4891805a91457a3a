"""Estimates the memory that training needs on one GPU, part by part, from the model's sizes.

The estimate is derived and never fitted to measurements. `NOT_MODELLED` lists what it leaves out.
"""

from dataclasses import dataclass

from s4v_core.training.arithmetic.flops import Shape
from s4v_core.training.estimate.weights import Weights
from s4v_core.training.lora import LANGUAGE_TARGETS
from s4v_core.training.stage import TrainStage
from s4v_core.training.worker.loss_module import HEAD_CHUNK

NOT_MODELLED = (
    "what the allocator reserves and does not use (fragmentation, blocks kept for reuse)",
    "CUDA context, NCCL and cuBLAS workspaces",
    "buffers of the original's own sharding: it ran DeepSpeed ZeRO-3, which keeps up to 1e9 "
    "gathered parameters (stage3_max_live_parameters) and flat fp32 copies while it steps",
    "logits of all places in fp32, which the original holds and this project never does",
)

FP32, BF16 = 4, 2
"""Bytes of a number."""


@dataclass(frozen=True, slots=True)
class Load:
    """The size of one worker's micro-batch, and how it is computed.

    Attributes:
        samples: Number of samples in the micro-batch.
        tokens: Number of tokens of each sample, image included.
        images: Number of images in the micro-batch.
        learnt: Number of labelled positions of each sample.
        vision_from: First vision block that learns; None if none does.
        projector: Whether the projector keeps anything for a backward pass.
        layer_inputs: Numbers that a layer of the language model keeps by position because its own
            weights or adapters learn; see `count_layer_inputs`.
        number_bytes: Bytes of a number of the computation.
        activation_checkpointing: Whether activations are computed again in the backward pass.
    """

    samples: int
    tokens: int
    images: int
    learnt: int
    vision_from: int | None
    projector: bool
    layer_inputs: int
    number_bytes: int
    activation_checkpointing: bool


def estimate_memory(shape: Shape, weights: Weights, load: Load) -> dict[str, int]:
    """Bytes on one GPU by component, at the peak in the backward pass."""
    places = load.samples * load.tokens
    learning_blocks = (
        0 if load.vision_from is None else max(shape.vision_blocks - load.vision_from, 0)
    )
    vision_places = load.images * shape.vision_places
    layer, block = _count_layer_bytes(shape, load), _count_block_bytes(shape, load)
    kept = shape.layers * places * shape.width * load.number_bytes
    kept_vision = learning_blocks * vision_places * shape.vision_width * load.number_bytes
    if not load.activation_checkpointing:
        kept, kept_vision = shape.layers * places * layer, learning_blocks * vision_places * block
        layer = block = 0
    if load.projector:
        image_places = load.images * shape.image_tokens
        kept_vision += image_places * shape.kept_per_image_token * load.number_bytes
    name = "fp32" if load.number_bytes == FP32 else "bf16"
    return {
        "weights (fp32, sharded)": (weights.learning + weights.frozen) * FP32,
        "gradients (fp32, sharded)": weights.learning * FP32,
        "moments (2 x fp32, sharded)": weights.learning * 2 * FP32,
        f"gathered weights ({name})": weights.gathered * load.number_bytes,
        "gradients of one part before they are shared": weights.reduced
        * (load.number_bytes + FP32),
        "kept activations, language model": kept + _count_last_norm(shape, load),
        "kept activations, vision tower, projector": kept_vision,
        "activations of the layer that is computed": max(
            places * layer, vision_places * block if learning_blocks else 0
        ),
        "logits of one chunk (fp32, with gradient)": _count_head_bytes(shape, load),
    }


def count_layer_inputs(shape: Shape, job: TrainStage) -> int:
    """Numbers that a layer of the language model keeps by position because it learns: the inputs
    of the matrices that get a gradient, and both norms' results. The input of the output projection
    is not among them, because the attention keeps it in any case."""
    if not job.learning.language:
        return 0
    if not job.lora.rank:
        return 4 * shape.width + shape.mlp
    targets = set(job.lora.targets) & set(LANGUAGE_TARGETS)
    on_attention = bool(targets & {"q_proj", "k_proj", "v_proj"})
    on_mlp = bool(targets & {"gate_proj", "up_proj"})
    inputs = shape.width * (on_attention + on_mlp) + shape.mlp * ("down_proj" in targets)
    return inputs + job.lora.rank * len(targets)


def _count_layer_bytes(shape: Shape, load: Load) -> int:
    """Bytes that one layer of the language model keeps by position for its backward pass.

    Besides its inputs these are q, k, v and the attention's result; gate, its SiLU and up. The two
    norms compute in fp32. Attention keeps no matrix (scaled_dot_product_attention).
    """
    wide = 2 * shape.width + 2 * shape.key_value_width + 3 * shape.mlp + load.layer_inputs
    return wide * load.number_bytes + 2 * shape.width * FP32


def _count_block_bytes(shape: Shape, load: Load) -> int:
    """Bytes that one vision block keeps by position."""
    numbers, in_fp32 = shape.kept_per_vision_place
    return numbers * load.number_bytes + in_fp32 * FP32


def _count_last_norm(shape: Shape, load: Load) -> int:
    """Bytes that the norm behind the last layer keeps, and the head's inputs."""
    places = load.samples * load.tokens
    to_head = load.samples * min(load.learnt, load.tokens)
    in_fp32 = places * shape.width * FP32
    return in_fp32 + (places + to_head) * shape.width * load.number_bytes


def _count_head_bytes(shape: Shape, load: Load) -> int:
    from_head = min(load.samples * load.learnt, HEAD_CHUNK)
    return 3 * from_head * shape.vocabulary * FP32
