"""Which weights decay, and how optimiser state survives the split into groups."""

from pathlib import Path

import pytest
import torch

from s4v_core.training.checks import check_stage
from s4v_core.training.preparation import prepare_run
from s4v_core.training.stage import Optimiser
from s4v_core.training.worker.checkpoints import Checkpoints, Manifest
from s4v_core.training.worker.components import build_module, build_optimiser
from s4v_core.training.worker.world import open_local_world
from tests.training.lessons import build_job, write_lessons


def test_matrices_decay_and_vectors_do_not() -> None:
    matrix, vector = (torch.nn.Parameter(torch.ones(*shape)) for shape in ((2, 2), (2,)))
    optimiser = build_optimiser([matrix, vector], Optimiser(learning_rate=0.1, weight_decay=0.5))
    for parameter in (matrix, vector):
        parameter.grad = torch.zeros_like(parameter)
    optimiser.step()
    assert torch.allclose(matrix, torch.full((2, 2), 0.95))
    assert torch.equal(vector, torch.ones(2))


@pytest.mark.parametrize("kind", [1, 2], ids=["vectors", "matrices"])
def test_a_group_of_nothing_is_left_out(kind: int) -> None:
    parameter = torch.nn.Parameter(torch.ones(*[2] * kind))
    assert len(build_optimiser([parameter], Optimiser()).param_groups) == 1


def test_a_checkpoint_of_one_group_continues_in_two(checkpoint: Path, tmp_path: Path) -> None:
    """A run that an earlier version began: all its parameters were one group."""
    lessons = write_lessons(tmp_path / "lessons")
    _, spec = prepare_run(check_stage(build_job(lessons, checkpoint, tmp_path / "run")))
    with open_local_world("cpu") as world:
        module = build_module(spec, world)
        parameters = [p for p in module.parameters() if p.requires_grad]
        old = torch.optim.AdamW(parameters, lr=1e-3, weight_decay=0.1, fused=True)
        for number, parameter in enumerate(parameters):
            parameter.grad = torch.full_like(parameter, 0.01 * (number + 1))
        old.step()
        saved = Checkpoints(spec.output, 2, world, 10.0)
        saved.save(Manifest(1, spec.digest, 8, 100), module, old)
        saved.wait_until_durable()
        other = build_module(spec, world)
        learning = [p for p in other.parameters() if p.requires_grad]
        new = build_optimiser(learning, spec.job.optimiser)
        Checkpoints(spec.output, 2, world, 10.0).restore_newest(other, new)
        assert [group["weight_decay"] for group in new.param_groups] == [0.1, 0.0]
        for before, after in zip(parameters, learning, strict=True):
            assert torch.equal(before.full_tensor(), after.full_tensor())
            for name in ("exp_avg", "exp_avg_sq"):
                found = new.state[after][name].full_tensor()
                assert torch.equal(found, old.state[before][name].full_tensor())
            assert float(new.state[after]["step"]) == 1
