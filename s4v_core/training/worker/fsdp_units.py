"""The parts of the model whose weights are gathered together (FSDP2), and when they are.

What a part costs to gather is its size, and one message: so each block of the language model is a
part of its own, and the small frozen blocks of the vision tower are one part together.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

from s4v_core.model.parts import Parts, find_parts
from s4v_core.training.worker.loss_module import LossModule


@dataclass(frozen=True, slots=True)
class Switches:
    """Settings of speed and memory; none of them changes a number beyond its rounding.

    Attributes:
        kernel: Attention kernel of the language model: sdpa, flex or flash.
        compile: Whether each block is compiled.
        prefetch: Blocks whose weights are gathered ahead; 0 leaves it to FSDP.
        reshard_after_forward: Whether a block's gathered weights are freed after its forward pass.
        activation_checkpointing: Whether activations are computed again in the backward pass.
    """

    kernel: str = "sdpa"
    compile: bool = False
    prefetch: int = 0
    reshard_after_forward: bool = True
    activation_checkpointing: bool = True


@dataclass(frozen=True, slots=True)
class Units:
    """The parts of a model that are gathered one after the other. What is in none of them belongs
    to the root, and stays gathered.

    Attributes:
        together: Vision blocks that are one part together; a single one is no part of its own.
        alone: Modules that are a part each.
        head: The head, whose weights are not freed between the two passes.
    """

    together: list[nn.Module]
    alone: list[nn.Module]
    head: nn.Module


def split_units(model: nn.Module) -> Units:
    """Split a model into the parts that are gathered together."""
    parts = find_parts(model)
    frozen, tower = _split_tower(parts)
    alone = [*tower, parts.language.embed_tokens, *parts.language.layers]
    return Units(frozen if len(frozen) > 1 else [], alone, parts.head)


def shard(
    root: LossModule, mesh: DeviceMesh, compute_dtype: torch.dtype, switches: Switches
) -> None:
    """Shard every parameter of the module over `mesh`; a mesh of two dimensions replicates over its
    first one."""
    policy = MixedPrecisionPolicy(param_dtype=compute_dtype, reduce_dtype=torch.float32)
    model, units = find_parts(root.model), split_units(root.model)
    if units.together:
        fully_shard(units.together, mesh=mesh, mp_policy=policy)
    for part in units.alone:
        fully_shard(
            part,
            mesh=mesh,
            mp_policy=policy,
            reshard_after_forward=switches.reshard_after_forward,
        )
    # The backward pass begins with the head: what is freed would be gathered again at once.
    fully_shard(units.head, mesh=mesh, mp_policy=policy, reshard_after_forward=False)
    fully_shard(root, mesh=mesh, mp_policy=policy)
    for module in _list_units(root):
        # The loss is a sum, which the loop divides once by the labelled tokens of all workers.
        module.set_gradient_divide_factor(1.0)
        # Otherwise gloo refuses the factor, which would become a PREMUL_SUM.
        module.set_force_sum_reduction_for_comms(True)
    if switches.prefetch:
        _set_prefetch([*model.language.layers, units.head], switches.prefetch)


def free_gathered(root: nn.Module) -> None:
    """Free all gathered weights. After a pass without gradients some are still there, and the next
    pass would compute with them, although the optimiser has changed the weights."""
    for module in _list_units(root):
        module.reshard()


def _split_tower(model: Parts) -> tuple[list[nn.Module], list[nn.Module]]:
    """The vision blocks that are gathered together, and those that are gathered one by one.

    Together are those before the first that learns: none of them is computed a second time. Blocks
    after the features are never computed, so they must not be in a part that is.
    """
    blocks = list(model.blocks)
    first = next((number for number, one in enumerate(blocks) if _learns(one)), len(blocks))
    if any(_learns(one) for one in model.stem) or first < 2:
        first = 0
    after = [one for one in model.unused if isinstance(one, type(blocks[0]))]
    return blocks[:first], [*blocks[first:], *after]


def _learns(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())


def _set_prefetch(units: list[nn.Module], ahead: int) -> None:
    """Gather the next units while one is computed: forward in this order, backward in reverse."""
    for number, unit in enumerate(units):
        assert isinstance(unit, FSDPModule), "every unit is sharded"
        unit.set_modules_to_forward_prefetch(units[number + 1 : number + 1 + ahead])
        before = units[max(number - ahead, 0) : number]
        unit.set_modules_to_backward_prefetch(before[::-1])


def _list_units(root: nn.Module) -> list[FSDPModule]:
    return [module for module in root.modules() if isinstance(module, FSDPModule)]
