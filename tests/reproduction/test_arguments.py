"""Every command of every study is understood by the script that it is for, before anything runs."""

from functools import cache

import pytest

from ray_jobs.command_line import parse, read_flags
from ray_jobs.dataset import COMMANDS
from ray_jobs.eval import _drop_leftovers as drop_of_eval
from ray_jobs.export import ExportJob
from ray_jobs.stages import _drop_leftovers as drop_of_stage
from s4v_core.captioning.job import CaptionJob
from s4v_core.config import Config
from s4v_core.evaluation.job import EvalJob
from s4v_core.recipes import CAPTION, CAPTIONER, EVALUATE, FINETUNE, PRETRAIN, SYNTHESIS
from s4v_core.reproduction.command import Command
from s4v_core.reproduction.demo_studies import STUDIES
from s4v_core.reproduction.sizes import FULL, QUICK, Sizes
from s4v_core.reproduction.study import list_all
from s4v_core.reproduction.world import DemoWorld
from s4v_core.training.stage import TrainStage

_STAGES = {
    "train_captioner.py": CAPTIONER,
    "pretrain.py": PRETRAIN,
    "finetune.py": FINETUNE,
}


@cache  # reading takes a while, and most studies have the same stages
def _read(script: str, arguments: tuple[str, ...]) -> Config:
    """The job that a script makes of its arguments."""
    if script == "dataset.py":
        return read_flags(COMMANDS[arguments[0]][0], arguments[1:], "")
    if script == "export.py":
        return read_flags(ExportJob, arguments, "")
    if script == "caption.py":
        return parse(CAPTION, arguments, "")
    if script == "eval.py":
        return drop_of_eval(parse(EVALUATE, arguments, ""), EVALUATE["demo"])
    if script == "synthesize.py":
        return parse(SYNTHESIS, arguments, "", has_places=lambda job: False)
    recipes = _STAGES[script]
    return drop_of_stage(parse(recipes, arguments, ""), recipes["demo"])


def _read_all(name: str, sizes: Sizes = FULL) -> list[tuple[Command, Config]]:
    commands = list_all([STUDIES[name](DemoWorld(sizes), [1])])
    return [(one, _read(one.script, tuple(one.fill_in("/runs")))) for one in commands]


@pytest.mark.parametrize("name", list(STUDIES))
def test_every_command_is_understood(name: str) -> None:
    for command, job in _read_all(name):
        own = command.locate("/runs")
        if isinstance(job, TrainStage):
            assert job.output == own
            assert job.demo_scenes == 0
            assert job.workers == 1
            assert all(uri.startswith("/runs/") for uri in (*job.data, *job.images))
        if isinstance(job, EvalJob):
            assert (job.output, job.demo_scenes) == (own, 0)
            asks = (
                ("stablellava",) if name.startswith("stablellava") else ("mme", "mmbench", "vqav2")
            )
            assert job.names == asks
        if isinstance(job, CaptionJob):
            assert job.output == own
            assert job.input[0].endswith("pretrain/*.tar")


def test_only_a_quick_study_takes_every_caption() -> None:
    for sizes, is_gated in ((FULL, True), (QUICK, False)):
        passes = [job for _, job in _read_all("table2", sizes) if isinstance(job, CaptionJob)]
        assert [job.gate.enabled for job in passes] == [is_gated]


def test_what_the_paper_varies_reaches_the_stages() -> None:
    jobs = [job for _, job in _read_all("table6") if isinstance(job, TrainStage)]
    blocks = [job.learning.vision_from for job in jobs if job.stage == "pretrain"]
    assert blocks == [None, 3, 2, 1, 0]
    tuned = [job for job in jobs if job.stage == "finetune"]
    assert {job.learning.vision_from for job in tuned} == {None}
    found = [job for _, job in _read_all("table4") if isinstance(job, TrainStage)]
    pretrained = [job.learning for job in found if job.stage == "pretrain"]
    assert [(one.vision_from, one.language) for one in pretrained] == [(None, False), (2, True)]
    base = found[0]
    assert base.stage == "captioner"
    assert (base.learning.vision_from, base.learning.vision_stem) == (0, True)
    sizes = {job.model for _, job in _read_all("figure2") if isinstance(job, TrainStage)}
    assert {"new:world", "new:world-large"} <= sizes
