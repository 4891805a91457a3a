"""Selects the parameters of a vision-language model that learn.

Uses module objects and never names, because a name that matches nothing would silently freeze
everything.
"""

from collections.abc import Iterator

from torch import nn

from s4v_core.model.parts import find_parts


def _group_modules(model: nn.Module) -> dict[str, list[nn.Module]]:
    """Modules by group; each parameter of the model is in exactly one group."""
    parts = find_parts(model)
    return {
        "vision_stem": list(parts.stem),
        "vision_blocks": list(parts.blocks),
        "vision_unused": list(parts.unused),
        "projector": [parts.projector],
        "language": [parts.language, parts.head],
    }


def set_learning(
    model: nn.Module,
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


def count_learning(model: nn.Module) -> dict[str, tuple[int, int]]:
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
