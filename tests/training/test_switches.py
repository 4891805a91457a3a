"""Every switch of speed gives the loss, gradient and weights of a computation without it."""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from s4v_core.errors import ConfigError
from s4v_core.training.checks import check_stage
from s4v_core.training.export import read_checkpoint
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.stage import Learning, Saving
from s4v_core.training.worker import attention, components
from s4v_core.training.worker.checkpoints import checkpoint_uri
from s4v_core.training.worker.components import build_module, build_reader
from s4v_core.training.worker.loop import train
from s4v_core.training.worker.session import LocalSession
from s4v_core.training.worker.step_metrics import read_metrics
from s4v_core.training.worker.world import open_local_world
from tests.training.lessons import build_job, write_lessons
from tests.training.recomputation import Recomputed, recompute

STEPS = 3
LEARNS = ("language_model", "lm_head", "multi_modal_projector", "encoder.layers.1.")


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"), broken=(4,))


@pytest.fixture(scope="module")
def expected(
    lessons: Path, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory
) -> Recomputed:
    return recompute(_prepare(lessons, checkpoint, tmp_path_factory.mktemp("again")), STEPS, LEARNS)


def _prepare(lessons: Path, checkpoint: Path, output: Path, **changes: Any) -> RunSpec:
    _, spec = prepare_run(check_stage(build_job(lessons, checkpoint, output, **changes)))
    assert spec.steps == STEPS
    return spec


def _train(spec: RunSpec) -> None:
    with open_local_world("cpu") as world:
        train(spec, world, LocalSession(lambda metrics: None))


def _compare(output: str, expected: Recomputed) -> None:
    metrics = read_metrics(output)
    assert [m.loss for m in metrics] == pytest.approx(expected.losses, abs=1e-5)
    assert [m.grad_norm for m in metrics] == pytest.approx(expected.norms, rel=1e-4)
    weights = dict(read_checkpoint(checkpoint_uri(output, STEPS)))
    assert weights.keys() == expected.weights.keys()
    for name, found in weights.items():
        torch.testing.assert_close(found, expected.weights[name], atol=2e-5, rtol=0, msg=name)


SWITCHES: dict[str, dict[str, Any]] = {
    "none": {},
    "no checkpointing": {"activation_checkpointing": False},
    "weights stay gathered": {"reshard_after_forward": False},
    "next block ahead": {"prefetch": 1},
    "more blocks ahead than there are": {"prefetch": 5},
    "all samples at once": {"device_batch_size": 8},
    "all of them": {
        "reshard_after_forward": False,
        "prefetch": 2,
        "activation_checkpointing": False,
        "attention": "sdpa",
    },
}


@pytest.mark.parametrize("changes", SWITCHES.values(), ids=SWITCHES)
def test_a_switch_changes_no_number(
    lessons: Path, checkpoint: Path, tmp_path: Path, expected: Recomputed, changes: dict[str, Any]
) -> None:
    spec = _prepare(lessons, checkpoint, tmp_path, **changes)
    _train(spec)
    _compare(spec.output, expected)


@pytest.mark.slow
@pytest.mark.timeout(900)  # a C++ compiler works for minutes
@pytest.mark.parametrize("checkpointing", [True, False])
def test_compiled_blocks_change_no_number(
    lessons: Path, checkpoint: Path, tmp_path: Path, expected: Recomputed, checkpointing: bool
) -> None:
    spec = _prepare(
        lessons, checkpoint, tmp_path, compile=True, activation_checkpointing=checkpointing
    )
    _train(spec)
    _compare(spec.output, expected)


def _attend_by_segment(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    """The contract of a kernel for samples of different lengths, one sample after the other."""
    bounds = starts.tolist()
    assert starts.dtype == torch.int32
    assert max(b - a for a, b in pairwise(bounds)) == longest
    parts = []
    for start, end in pairwise(bounds):
        q, k, v = (t[start:end].transpose(0, 1) for t in (query, key, value))
        parts.append(F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale))
    return torch.cat(parts, dim=1).transpose(0, 1)


@contextmanager
def _without_refusal(monkeypatch: pytest.MonkeyPatch, kernel: str) -> Iterator[None]:
    """Let a CPU use a kernel for GPUs: flex by its own dense computation, flash by a plain one."""
    import torch.nn.attention.flex_attention as flex
    import transformers.integrations.flex_attention as integration

    with monkeypatch.context() as patch:
        patch.setattr(components, "choose_kernel", lambda *_: kernel)
        patch.setattr(attention, "run_flash", _attend_by_segment)
        patch.setattr(flex, "_validate_device", lambda *_: None)
        patch.setattr(integration.WrappedFlexAttention, "__call__", lambda _: flex.flex_attention)
        yield


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("kernel", ["flex", "flash"])
def test_kernels_for_gpus_keep_samples_apart(
    lessons: Path,
    checkpoint: Path,
    tmp_path: Path,
    expected: Recomputed,
    monkeypatch: pytest.MonkeyPatch,
    kernel: str,
) -> None:
    spec = _prepare(lessons, checkpoint, tmp_path, device_batch_size=8)
    with open_local_world("cpu") as world:
        reader = build_reader(spec, world)
        assert any(batch.is_packed for step in range(STEPS) for batch in reader[step])
    with _without_refusal(monkeypatch, kernel):
        _train(spec)
    _compare(spec.output, expected)


@pytest.mark.parametrize("kernel", ["flex", "flash"])
def test_a_kernel_that_learns_nothing_on_cpus_is_refused(
    lessons: Path, checkpoint: Path, tmp_path: Path, kernel: str
) -> None:
    with pytest.raises(ConfigError, match=f"attention: found {kernel} on cpu, allowed auto and"):
        build_job(lessons, checkpoint, tmp_path, attention=kernel)
    if not torch.cuda.is_available():  # the device that `auto` finds counts, too
        job = build_job(lessons, checkpoint, tmp_path, attention=kernel, device="auto")
        with pytest.raises(ConfigError, match=f"attention: found {kernel} on cpu"):
            prepare_run(check_stage(job))


@pytest.mark.parametrize(
    ("wanted", "device", "dtype", "sentence"),
    [
        ("flash", "cpu", torch.bfloat16, "of compute capability 0.0, needed 8.0"),
        ("flash", "cpu", torch.float32, "found flash with precision fp32, allowed bf16"),
    ],
)
def test_flash_needs_a_device_and_a_precision_that_have_it(
    wanted: str, device: str, dtype: torch.dtype, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        attention.choose_kernel(wanted, torch.device(device), dtype)
    assert attention.choose_kernel("auto", torch.device(device), dtype) == "sdpa"


class _HostReads(TorchDispatchMode):
    """Counts the operations for whose result a program waits."""

    WAITING = ("_local_scalar_dense", "nonzero", "item", "is_nonzero", "masked_select", "equal")

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.WAITING or ("index_put" in name and args[1][0].dtype == torch.bool):
            self.found.append(name)
        return func(*args, **kwargs or {})


@pytest.mark.parametrize("together", [1, 8])
def test_a_micro_batch_is_computed_without_waiting_for_the_device(
    lessons: Path, checkpoint: Path, tmp_path: Path, together: int
) -> None:
    spec = _prepare(lessons, checkpoint, tmp_path, device_batch_size=together)
    with open_local_world("cpu") as world:
        module = build_module(spec, world)
        batches = build_reader(spec, world)[0]
        assert any(b.images for b in batches)
        assert together == 8 or any(not b.images for b in batches)
        with _HostReads() as reads:
            for batch in batches:
                module(batch).backward()
        assert reads.found == []
        with _HostReads() as reads:
            bool((batches[0].labels_RT > 0).any())
        assert reads.found, "the counter counts"


@pytest.mark.parametrize(
    ("learning", "together"),
    [
        (Learning(), 2),
        (Learning(vision_from=1), 1),
        (Learning(vision_from=0), 1),
        (Learning(vision_stem=True), 1),
    ],
)
def test_frozen_vision_blocks_are_gathered_at_once(
    lessons: Path, checkpoint: Path, tmp_path: Path, learning: Learning, together: int
) -> None:
    spec = _prepare(lessons, checkpoint, tmp_path, learning=learning)
    with open_local_world("cpu") as world:
        module = build_module(spec, world)
        blocks = module.model.model.vision_tower.encoder.layers
        states = [block._get_fsdp_state() for block in blocks]
    # Of three blocks the last is never computed, so it must not be with those that are.
    assert len({id(state) for state in states[:2]}) == 3 - together
    assert states[2] is not states[0]
    assert states[2] is not states[1]


def test_rows_are_shared_in_every_stage(lessons: Path, checkpoint: Path, tmp_path: Path) -> None:
    spec = _prepare(
        lessons, checkpoint, tmp_path, device_batch_size=8, group_by_modality=True, stage="finetune"
    )
    with open_local_world("cpu") as world:
        reader = build_reader(spec, world)
        batches = [batch for step in range(spec.steps) for batch in reader[step]]
    assert sum(batch.ids_RT.shape[0] for batch in batches) < sum(len(b.numbers) for b in batches)
    assert all(batch.is_packed == (batch.ids_RT.shape[0] < len(batch.numbers)) for batch in batches)


def test_switches_may_change_on_resume(
    lessons: Path, checkpoint: Path, tmp_path: Path, expected: Recomputed
) -> None:
    job = build_job(lessons, checkpoint, tmp_path, saving=Saving(every_steps=1))
    _, spec = prepare_run(check_stage(job))
    session = LocalSession(lambda metrics: session.request_stop())
    with open_local_world("cpu") as world:
        train(spec, world, session)
    assert len(read_metrics(spec.output)) < STEPS
    later = job.replace(
        attention="sdpa", prefetch=1, reshard_after_forward=False, validate_every_steps=7
    )
    _, spec = prepare_run(check_stage(later))
    _train(spec)
    _compare(spec.output, expected)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"replicas": 3, "workers": 4, "batch_size": 16}, "replicas: found 3 for 4 workers"),
        ({"replicas": 2}, "replicas: found 2 for 1 workers, allowed numbers that divide"),
        ({"replicas": 0}, "replicas: found 0"),
        ({"prefetch": -1}, "prefetch: found -1"),
        ({"attention": "eager"}, "attention: found 'eager'"),
    ],
)
def test_switches_that_cannot_be_are_refused(
    lessons: Path, checkpoint: Path, tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_job(lessons, checkpoint, tmp_path, **changes)
