"""The parts of a vision-language model by what they do, whatever its architecture calls them."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a model; each of its parameters is in exactly one.

    Attributes:
        stem: What comes before the vision blocks: the patch and position embeddings.
        blocks: Vision blocks that the features depend on.
        unused: Vision blocks after the features, and norms after all blocks. They never get a
            gradient, but the exported checkpoint needs them.
        projector: From the vision tower's width to that of the language model.
        language: The language model without its head.
        head: The language model's head.
    """

    stem: Sequence[nn.Module]
    blocks: Sequence[nn.Module]
    unused: Sequence[nn.Module]
    projector: nn.Module
    language: Any
    head: nn.Module


def find_parts(model: Any) -> Parts:
    """The parts of a LLaVA-1.5 or of a Qwen2.5-VL."""
    inner = model.model
    if hasattr(inner, "visual"):
        tower = inner.visual
        return Parts(
            stem=(tower.patch_embed,),
            blocks=tuple(tower.blocks),
            unused=(),
            projector=tower.merger,
            language=inner.language_model,
            head=model.lm_head,
        )
    tower, used = inner.vision_tower, count_used_blocks(model)
    blocks = tuple(tower.encoder.layers)
    return Parts(
        stem=(tower.embeddings, tower.pre_layrnorm),
        blocks=blocks[:used],
        unused=(*blocks[used:], tower.post_layernorm),
        projector=inner.multi_modal_projector,
        language=inner.language_model,
        head=model.lm_head,
    )


def count_used_blocks(model: Any) -> int:
    """Number of LLaVA's vision blocks up to the layer that gives the features: 23 of CLIP ViT-L's
    24."""
    return count_config_blocks(model.config)


def count_config_blocks(config: Any) -> int:
    """`count_used_blocks` of a model that is not built."""
    layers = config.vision_config.num_hidden_layers
    # hidden_states also holds the input of the first block: -2 is the output of block 22 of 0..23.
    return int(config.vision_feature_layer) % (layers + 1)
