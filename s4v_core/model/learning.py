"""Which parameters of LLaVA-1.5 learn. Walks module objects, never names: a name that matches
nothing would freeze everything in silence."""

from collections.abc import Iterator

from torch import nn
from transformers import LlavaForConditionalGeneration


def used_blocks(model: LlavaForConditionalGeneration) -> int:
    """Vision blocks in front of the layer that features are taken from: 23 of CLIP ViT-L's 24."""
    layers = model.config.vision_config.num_hidden_layers
    # hidden_states holds the input of the first block, too: -2 is behind block 22 of 0..23.
    return int(model.config.vision_feature_layer) % (layers + 1)


def parameter_groups(model: LlavaForConditionalGeneration) -> dict[str, list[nn.Module]]:
    """Modules by group; each parameter of the model is in exactly one.

    vision_unused: blocks behind the features, and the norm behind all blocks. They never get a
    gradient; the exported checkpoint needs them all the same.
    """
    tower = model.model.vision_tower
    blocks = list(tower.encoder.layers)
    used = used_blocks(model)
    return {
        "vision_stem": [tower.embeddings, tower.pre_layrnorm],
        "vision_blocks": blocks[:used],
        "vision_unused": [*blocks[used:], tower.post_layernorm],
        "projector": [model.model.multi_modal_projector],
        "language": [model.model.language_model, model.lm_head],
    }


def let_learn(
    model: LlavaForConditionalGeneration,
    vision_from: int | None,
    vision_stem: bool,
    projector: bool,
    language: bool,
) -> None:
    """Switch gradients on for the named parts and off for all others.

    Args:
        vision_from: First block of the vision tower that learns (Sec. 4.2: 12 of 24); None: none.
    """
    groups = parameter_groups(model)
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
    held = sum(p.numel() for modules in groups.values() for p in _parameters(modules))
    assert held == sum(p.numel() for p in model.parameters()), "a parameter belongs to no group"


def count_learning(model: LlavaForConditionalGeneration) -> dict[str, tuple[int, int]]:
    """Per group: parameters that learn, and all of its parameters."""
    return {
        name: (
            sum(p.numel() for p in _parameters(modules) if p.requires_grad),
            sum(p.numel() for p in _parameters(modules)),
        )
        for name, modules in parameter_groups(model).items()
    }


def _parameters(modules: list[nn.Module]) -> Iterator[nn.Parameter]:
    for module in modules:
        yield from module.parameters()
