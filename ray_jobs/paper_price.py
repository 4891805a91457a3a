"""The price of the paper's whole study on a cluster, arm by arm, by the estimates of each stage."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from s4v_core.evaluation.catalogue import find_benchmark
from s4v_core.recipes import CAPTIONER, EVALUATE, FINETUNE, PAPER_MEMORY_GB, PRETRAIN
from s4v_core.recipes import PUBLISHED_UTILISATION as UTILISATION
from s4v_core.training.estimate.forecast import Published, forecast_stage
from s4v_core.training.stage import Expected, Learning, TrainStage

_GPUS = 16
_PUBLISHED_PASS_DAYS = 44.0
"""A100-days of the paper's pass over 1.2M images (Sec. 3.3)."""
_IMAGES_PER_S = 7.0
"""Images that an A100 captions in a second with this project's pass: the estimate that the size of
its units rests on, to be replaced by --plan of caption.py on the machine itself."""
_QUESTIONS_PER_S = 10.0
"""Questions that an A100 answers in a second: an assumption, like the rate of captions, which have
twenty times the tokens."""
_LLAVA_SAMPLES = 558_128
_UTILISATION = "the paper's own runs"
_FROZEN = 24


@dataclass(frozen=True, slots=True)
class _Stage:
    """One run of the study.

    Attributes:
        name: What it is; runs of one name are the same run.
        gpu_hours: Its price.
        command: How it is run.
    """

    name: str
    gpu_hours: float
    command: str


def describe_price() -> str:
    """Every arm of the study with its stages, and the sum in which shared stages count once."""
    paid: dict[str, float] = {}
    lines = [f"the paper's study on {_GPUS} A100-80G; utilisation as in {_UTILISATION}"]
    for title, arms in _list_studies().items():
        lines.append(title)
        for arm, stages in arms.items():
            new = [stage for stage in stages if stage.name not in paid]
            paid |= {stage.name: stage.gpu_hours for stage in new}
            hours = sum(stage.gpu_hours for stage in new)
            shared = len(stages) - len(new)
            note = f", {shared} stages shared with arms above" if shared else ""
            lines.append(f"  {arm}: {hours:,.0f} GPU-hours{note}")
            lines += [
                f"    {stage.gpu_hours:8,.1f} GPU-hours  {stage.name}: {stage.command}"
                for stage in new
            ]
    total = sum(paid.values())
    lines += [
        f"all arms: {total:,.0f} GPU-hours, {total / _GPUS / 24:,.1f} days on {_GPUS} A100s",
        f"the paper's own pass took {_PUBLISHED_PASS_DAYS:g} GPU-days, which would make it "
        f"{_PUBLISHED_PASS_DAYS * 24:,.0f} GPU-hours instead of {_price_pass().gpu_hours:,.0f}",
        f"assumed, not measured: {_IMAGES_PER_S:g} captions and {_QUESTIONS_PER_S:g} answers per "
        "second and GPU; collecting the teacher's captions and a judge's grades are not in it",
    ]
    return "\n".join(lines)


def _list_studies() -> dict[str, dict[str, list[_Stage]]]:
    first = [_train("captioner", CAPTIONER["paper"]), _price_pass()]
    plain, detailed = _pretrain_as_llava(), _pretrain("pretrain", 12)
    table_4 = {
        f"pretraining {name}, SFT {share}": [*before, run, _tune(run, share), _examine(run, share)]
        for name, run, before in (("no", plain, []), ("yes", detailed, first))
        for share in ("no", "yes")
    }
    table_5 = {
        name: [*before, run, _tune(run, "yes"), _examine(run, "yes")]
        for name, run, before in (
            ("BLIP-558K", _pretrain("pretrain BLIP-558K", 12, _LLAVA_SAMPLES), []),
            ("ShareGPT4V-PT-558K", _pretrain("pretrain PT-558K", 12, _LLAVA_SAMPLES), first),
        )
    }
    table_6 = {
        f"tower from block {block}": [*first, run, _tune(run, "yes"), _examine(run, "yes")]
        for block in (24, 18, 6, 0)
        for run in [_pretrain(f"pretrain from block {block}", block)]
    }
    figure_6 = {
        f"{count // 1000}K captions": [*first, run, _tune(run, "yes"), _examine(run, "yes")]
        for count in (100_000, 300_000, 600_000, 900_000)
        for run in [_pretrain(f"pretrain {count // 1000}K", 12, count)]
    }
    large = FINETUNE["paper-13b"]
    figure_2 = {
        f"13B, SFT {share}": [
            _train(f"fine-tune 13B, {share}", large),
            _examine(_Stage("13B", 0, ""), share),
        ]
        for share in ("no", "yes")
    }
    return {
        "Table 4": table_4,
        "Table 5": table_5,
        "Table 6": table_6,
        "Figure 6": figure_6,
        "Figure 2": figure_2,
    }


def _price_pass() -> _Stage:
    samples = PRETRAIN["paper"].expected.samples
    return _Stage("pass", samples / _IMAGES_PER_S / 3600, f"caption.py paper --engines {_GPUS}")


def _pretrain(name: str, block: int, samples: int | None = None) -> _Stage:
    job = PRETRAIN["paper"]
    learning = Learning(vision_from=None if block == _FROZEN else block)
    expected = job.expected.replace(samples=samples or job.expected.samples)
    return _train(name, job.replace(learning=learning, expected=expected))


def _pretrain_as_llava() -> _Stage:
    """LLaVA-1.5's own pretraining: brief captions, and only the projector learns."""
    job = PRETRAIN["paper"]
    expected = Expected(samples=_LLAVA_SAMPLES, tokens=600, learnt=20)
    learning = Learning(language=False)
    return _train("pretrain as LLaVA-1.5", job.replace(learning=learning, expected=expected))


def _tune(pretrained: _Stage, share: str) -> _Stage:
    return _train(f"fine-tune after {pretrained.name}, {share}", FINETUNE["paper"])


def _examine(pretrained: _Stage, share: str) -> _Stage:
    job = EVALUATE["paper"]
    questions = _count_questions(job.names)
    hours = questions / _QUESTIONS_PER_S / 3600
    name = f"eleven columns after {pretrained.name}, {share}"
    return _Stage(name, hours, f"eval.py paper, {questions:,} questions")


@cache
def _count_questions(names: Sequence[str]) -> int:
    """Questions of whole releases; of the sizes that are known, the first."""
    return sum((find_benchmark(name).source.sizes or (0,))[0] for name in names)


def _train(name: str, job: TrainStage) -> _Stage:
    return _Stage(name, _estimate_gpu_hours(job), _name_script(job))


@cache
def _estimate_gpu_hours(job: TrainStage) -> float:
    published = Published(PAPER_MEMORY_GB, UTILISATION)
    hours = forecast_stage(job, published).hours
    own = next(value for name, value in hours.items() if _UTILISATION in name)
    return own * job.workers


def _name_script(job: TrainStage) -> str:
    scripts = {"captioner": "train_captioner.py", "pretrain": "pretrain.py"}
    samples = f"{job.expected.samples:,} samples"
    return f"{scripts.get(job.stage, 'finetune.py')} paper, {samples}, {job.workers} workers"
