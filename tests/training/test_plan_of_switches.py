"""Which switches `--plan` says that a machine can use."""

from typing import Any

import pytest

from s4v_core.recipes import FINETUNE
from s4v_core.training.estimate.switches import Machine, describe_switches, find_machine


@pytest.mark.parametrize(
    ("changes", "machine"),
    [
        ({"device": "cpu", "accelerator": None}, Machine(False, False)),
        ({"accelerator": "A100-80G"}, Machine(True, True)),
        ({"accelerator": "NVIDIA_H200"}, Machine(True, True)),
        ({"accelerator": "V100"}, Machine(True, None)),
    ],
)
def test_the_machine_is_the_one_that_the_job_asks_for(
    changes: dict[str, Any], machine: Machine
) -> None:
    assert find_machine(FINETUNE["paper"].replace(**changes)) == machine


@pytest.mark.parametrize(
    ("machine", "sentence"),
    [
        (Machine(False, False), "sdpa alone"),
        (Machine(True, True), "sdpa, flex and flash"),
        (Machine(True, False), "flash needs compute capability 8.0"),
        (Machine(True, None), "flash from compute capability 8.0 on"),
    ],
)
def test_the_kernels_are_those_of_the_machine(machine: Machine, sentence: str) -> None:
    (line,) = [
        line
        for line in describe_switches(FINETUNE["paper"], machine).splitlines()
        if line.startswith("--attention")
    ]
    assert sentence in line


@pytest.mark.parametrize("workers", [0, 1, 16])
def test_copies_are_offered_that_the_workers_can_form(workers: int) -> None:
    job = FINETUNE["paper"].replace(workers=workers)
    text = describe_switches(job, Machine(True, True))
    assert ("1, 2, 4, 8, 16; the number of nodes" in text) == (workers == 16)
    assert ("nothing to gather" in text) == (workers < 2)
    assert len({line[:28] for line in text.splitlines()[1:]}) == 8
