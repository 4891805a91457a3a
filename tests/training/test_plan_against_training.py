"""The figures of `--plan` compared with those of training: parameters, bytes, tokens, steps."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.distributed.tensor import DTensor

from s4v_core.errors import ConfigError
from s4v_core.training.checks import check_stage
from s4v_core.training.estimate.choices import Choice
from s4v_core.training.estimate.forecast import forecast_stage
from s4v_core.training.lora import LANGUAGE_TARGETS, PROJECTOR_TARGETS, Lora
from s4v_core.training.preparation import prepare_run
from s4v_core.training.run_spec import RunSpec
from s4v_core.training.stage import Learning, TrainStage
from s4v_core.training.worker.components import build_module, build_optimiser, build_reader
from s4v_core.training.worker.world import World, join_world, open_local_world
from tests.architectures.qwen import build_qwen2_5_vl
from tests.conftest import photo
from tests.training.lessons import build_job, write_lessons

WORKERS = 4
STATES = ("weights", "gradients", "moments")
LABELS = (
    "weights (fp32, sharded)",
    "gradients (fp32, sharded)",
    "moments (2 x fp32, sharded)",
)
ALL = (*LANGUAGE_TARGETS, *PROJECTOR_TARGETS)


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_lessons(tmp_path_factory.mktemp("lessons"))


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen") / "model"
    build_qwen2_5_vl(folder)
    return folder


@pytest.fixture(scope="module")
def sizes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Samples with images of several sizes, two images, none, a broken one, and a lost one."""
    folder = tmp_path_factory.mktemp("sizes")
    for number, size in enumerate(((90, 70), (200, 120), (56, 56), (400, 80), (300, 300))):
        (folder / f"{number}.jpg").write_bytes(photo(number, size))
    (folder / "broken.jpg").write_bytes(photo(1, (40, 40))[:150])
    rows = [([f"{n}.jpg"], f"<image>Number {n}?") for n in range(5)]
    rows += [(["0.jpg", "3.jpg"], "<image><image>Which?"), ([], "Hello?")]
    rows += [(["broken.jpg"], "<image>What?"), (["lost.jpg"], "<image>What?")]
    records = [
        {
            "images": names,
            "messages": [
                {"role": "user", "content": text},
                {"role": "assistant", "content": "A square. " * (at + 1)},
            ],
        }
        for at, (names, text) in enumerate(rows)
    ]
    (folder / "data.json").write_text(json.dumps(records))
    return folder


def _qwen_job(sizes: Path, qwen: Path, output: Path, **changes: Any) -> TrainStage:
    native = {"template": "model", "image_mode": "native", "max_tokens": 120}
    return build_job(sizes, qwen, output, **(native | changes))


def _measure_states(spec: RunSpec, world: World) -> tuple[int, dict[str, int]]:
    """Learning parameters of the whole model, and this worker's bytes behind one step."""
    module = build_module(spec, world)
    learning = [p for p in module.parameters() if p.requires_grad]
    optimiser = build_optimiser(learning, spec.job.optimiser)
    for batch in build_reader(spec, world)[0]:
        module(batch).backward()
    optimiser.step()
    held = {
        "weights": list(module.parameters()),
        "gradients": [p.grad for p in module.parameters()],
        "moments": [v for state in optimiser.state.values() for v in state.values()],
    }
    found = {name: sum(map(_count_bytes, tensors)) for name, tensors in held.items()}
    return sum(p.numel() for p in learning), found


def _count_bytes(tensor: torch.Tensor | None) -> int:
    if tensor is None:
        return 0
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).nbytes


def _compare(plan: Choice, count: int, states: dict[str, int]) -> None:
    assert sum(plan.learning.values()) == count
    for name, label in zip(STATES, LABELS, strict=True):
        assert plan.components[label] == pytest.approx(states[name], rel=0.01), name


CASES: dict[str, dict[str, Any]] = {
    "all but a block": {},
    "projector": {"learning": Learning(language=False)},
    "stem and all": {"learning": Learning(vision_from=0, vision_stem=True)},
    "adapters": {"learning": Learning(), "lora": Lora(rank=4, targets=ALL)},
    "adapters on two layers": {
        "learning": Learning(projector=False),
        "lora": Lora(rank=8, targets=("q_proj", "down_proj")),
    },
    "adapters on the projector": {
        "learning": Learning(language=False),
        "lora": Lora(rank=2, targets=ALL),
    },
}


@pytest.mark.parametrize("changes", CASES.values(), ids=CASES)
def test_a_plan_has_the_parameters_and_states_of_a_llava(
    lessons: Path, checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = build_job(lessons, checkpoint, tmp_path / "run", **changes)
    _, spec = prepare_run(check_stage(job))
    with open_local_world("cpu") as world:
        _compare(forecast_stage(job).own, *_measure_states(spec, world))


@pytest.mark.parametrize(
    "changes",
    [{}, {"learning": Learning(), "lora": Lora(rank=4)}, {"learning": Learning(language=False)}],
    ids=["all but a block", "adapters", "merger"],
)
def test_a_plan_has_the_parameters_and_states_of_a_qwen(
    sizes: Path, qwen: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = _qwen_job(sizes, qwen, tmp_path / "run", **changes)
    _, spec = prepare_run(check_stage(job))
    with open_local_world("cpu") as world:
        _compare(forecast_stage(job).own, *_measure_states(spec, world))


def _list_groupings(job: TrainStage) -> Iterator[TrainStage]:
    """Sharded over all workers, and as copies that some of the workers share."""
    for replicas in (1, 2, WORKERS):
        yield job.replace(workers=WORKERS, replicas=replicas)


def _measure_in_worker(rank: int, job: TrainStage, store: str, results: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=WORKERS)
    _, spec = prepare_run(check_stage(job))
    found = []
    for one in _list_groupings(job):
        found.append(_measure_states(spec, join_world("cpu", one.replicas)))
    if rank == 0:
        Path(results).write_text(json.dumps(found))
    dist.destroy_process_group()


def test_a_plan_has_the_states_of_each_worker_of_a_sharded_or_copied_model(
    lessons: Path, checkpoint: Path, tmp_path: Path
) -> None:
    job = build_job(lessons, checkpoint, tmp_path / "run")
    prepare_run(check_stage(job))
    results = tmp_path / "results.json"
    mp.spawn(_measure_in_worker, (job, str(tmp_path / "store"), str(results)), WORKERS)
    measured = json.loads(results.read_text())
    weights = [states["weights"] for _, states in measured]
    assert weights[2] > 1.9 * weights[1] > 3.6 * weights[0]
    for one, (count, states) in zip(_list_groupings(job), measured, strict=True):
        found = forecast_stage(one)
        _compare(found.own, count, states)
        assert ("copies of the model, each sharded over" in found.as_text()) == (one.replicas > 1)


def _read_all_batches(spec: RunSpec) -> tuple[int, int, int]:
    """Samples, tokens and learnt tokens of all steps."""
    with open_local_world("cpu") as world:
        reader = build_reader(spec, world)
        batches = [batch for step in range(spec.steps) for batch in reader[step]]
    samples = sum(len(batch.numbers) for batch in batches)
    return samples, sum(b.tokens for b in batches), sum(b.learnt for b in batches)


def test_a_plan_counts_the_tokens_of_images_in_their_own_sizes(
    sizes: Path, qwen: Path, tmp_path: Path
) -> None:
    job = _qwen_job(sizes, qwen, tmp_path / "run", epochs=3, batch_size=5)
    counts, spec = prepare_run(check_stage(job))
    found = forecast_stage(job, counts_data=True)
    assert found.data
    assert found.data.expected.samples == counts.samples == 8
    assert found.data.unusable == counts.skipped == {"not_found": 1}
    samples, tokens, learnt = _read_all_batches(spec)
    assert (found.steps, found.samples) == (spec.steps, samples) == (6, 24)
    assert found.data.expected.tokens == round(tokens / samples)
    assert found.data.expected.learnt == round(learnt / samples)
    # By the processor's rule, in squares of 28 pixels; the picture of 300 has too many for 120
    # tokens. The broken one counts as the small one that takes its place.
    assert found.data.image_tokens == pytest.approx((6 + 28 + 4 + 42 + 121 + 6 + 42 + 4) / 8)
    assert "an image has" in found.as_text()
    assert "are assumed" not in found.as_text()


def test_images_that_are_not_read_count_as_the_largest(
    sizes: Path, qwen: Path, tmp_path: Path
) -> None:
    job = _qwen_job(sizes, qwen, tmp_path / "run", max_tokens=2000)
    assert "images: not read; 1280 tokens each are assumed" in forecast_stage(job).as_text()
    small = job.replace(pixels_max=64 * 28 * 28)
    assert "64 tokens each are assumed" in forecast_stage(small).as_text()
    assert forecast_stage(small).own.longest < forecast_stage(job).own.longest


@pytest.mark.parametrize(
    "changes",
    [
        {"validation_share": 0.2},
        {"validation_share": 0.2, "epochs": 3, "group_by_modality": True},
        {"epochs": 2, "max_steps": 4},
    ],
)
def test_a_plan_has_the_steps_and_samples_of_the_run(
    lessons: Path, checkpoint: Path, tmp_path: Path, changes: dict[str, Any]
) -> None:
    job = build_job(lessons, checkpoint, tmp_path / "run", **changes)
    _, spec = prepare_run(check_stage(job))
    found = forecast_stage(job, counts_data=True)
    samples, tokens, _ = _read_all_batches(spec)
    assert (found.steps, found.samples) == (spec.steps, samples)
    assert found.tokens == pytest.approx(tokens, rel=0.1)  # four steps are not all samples


def test_a_job_that_is_refused_has_no_plan(
    lessons: Path, checkpoint: Path, qwen: Path, tmp_path: Path
) -> None:
    job = build_job(lessons, checkpoint, tmp_path / "run")
    for changes, words in (
        ({"model": str(qwen)}, "--template model --image-mode native"),
        ({"learning": Learning(vision_from=2)}, "allowed 0 to 1"),
        ({"validation_share": 0.99}, "leaves none to train on"),
        ({"model": "away", "template": "model", "image_mode": "native"}, "away is not there"),
    ):
        with pytest.raises(ConfigError, match=words):
            forecast_stage(job.replace(**changes))
