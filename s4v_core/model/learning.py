"""Selects the parameters of LLaVA-1.5 that learn.

Uses module objects and never names, because a name that matches nothing would silently freeze
everything.
"""

from collections.abc import Iterator

from torch import nn
from transformers import LlavaConfig, LlavaForConditionalGeneration


def count_used_blocks(model: LlavaForConditionalGeneration) -> int:
    """Number of vision blocks up to the layer that gives the features: 23 of CLIP ViT-L's 24."""
    return count_config_blocks(model.config)


def count_config_blocks(config: LlavaConfig) -> int:
    """`count_used_blocks` of a model that is not built."""
    layers = config.vision_config.num_hidden_layers
    # hidden_states also holds the input of the first block: -2 is the output of block 22 of 0..23.
    return int(config.vision_feature_layer) % (layers + 1)


def _group_modules(model: LlavaForConditionalGeneration) -> dict[str, list[nn.Module]]:
    """Modules by group; each parameter of the model is in exactly one group.

    The group vision_unused holds the blocks after the features, and the norm after all blocks. They
    never get a gradient, but the exported checkpoint needs them.
    """
    tower = model.model.vision_tower
    blocks = list(tower.encoder.layers)
    used = count_used_blocks(model)
    return {
        "vision_stem": [tower.embeddings, tower.pre_layrnorm],
        "vision_blocks": blocks[:used],
        "vision_unused": [*blocks[used:], tower.post_layernorm],
        "projector": [model.model.multi_modal_projector],
        "language": [model.model.language_model, model.lm_head],
    }


def set_learning(
    model: LlavaForConditionalGeneration,
    vision_from: int | None,
    vision_stem: bool,
    projector: bool,
    language: bool,
) -> None:
    """Switch gradients on for the chosen parts and off for all others.

    Args:
        vision_from: First block of the vision tower that learns (Sec. 4.2: 12 of 24); None if no
            block learns.
    """
    groups = _group_modules(model)
    learning = {
        "vision_stem": vision_stem,
        "vision_unused": False,
        "projector": projector,
        "language": language,
    }
    for name, modules in groups.items():
        for number, module in enumerate(modules):
            learns = learning.get(name, vision_from is not None and number >= vision_from)
            module.requires_grad_(learns)
    grouped = sum(p.numel() for modules in groups.values() for p in _iterate_parameters(modules))
    assert grouped == sum(p.numel() for p in model.parameters()), "a parameter belongs to no group"


def count_learning(model: LlavaForConditionalGeneration) -> dict[str, tuple[int, int]]:
    """For each group, the number of parameters that learn and the number of all parameters."""
    return {
        name: (
            sum(p.numel() for p in _iterate_parameters(modules) if p.requires_grad),
            sum(p.numel() for p in _iterate_parameters(modules)),
        )
        for name, modules in _group_modules(model).items()
    }


def _iterate_parameters(modules: list[nn.Module]) -> Iterator[nn.Parameter]:
    for module in modules:
        yield from module.parameters()
