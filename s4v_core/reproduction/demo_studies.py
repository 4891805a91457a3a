"""The studies of the demo world: tables and figures of the paper in miniature."""

from collections.abc import Callable, Sequence

from s4v_core.reproduction import published
from s4v_core.reproduction.command import Command, Output
from s4v_core.reproduction.scores import Measure
from s4v_core.reproduction.study import Arm, Claim, Study
from s4v_core.reproduction.world import FROZEN, DemoWorld, ModelSize

Seeds = Sequence[int]

_SWAPPED = 1.0
_SHARES = (0.0, 0.25, 0.5, 1.0)
_COUNTS = {"1/12": 12, "1/4": 4, "1/2": 2, "all": 1}
_BLOCKS = (("4 (frozen)", FROZEN), ("3", "3"), ("2", "2"), ("1", "1"), ("0", "0"))


def _pretrain_as_llava(world: DemoWorld, seed: int, size: ModelSize = "small") -> Command:
    """The baseline: noisy captions, and only the projector learns."""
    noisy = world.find("pretrain", "noisy.json")
    return world.pretrain(noisy, seed, FROZEN, learns_language=False, size=size)


def _find_captions(world: DemoWorld) -> Output:
    return Output(world.export_captions(), "captions.json")


def _examine(
    world: DemoWorld,
    seeds: Seeds,
    pretrain: Callable[[int], Command],
    share: float,
    size: ModelSize = "small",
) -> tuple[Command, ...]:
    """The exams of an arm, one per seed."""
    return tuple(
        world.evaluate(world.finetune(pretrain(seed), world.mix(seed, share), seed, size))
        for seed in seeds
    )


def build_table_4(world: DemoWorld, seeds: Seeds) -> Study:
    """Detailed captions in pretraining, in fine-tuning, in both, in none."""
    pretrainings: dict[str, Callable[[int], Command]] = {
        "no": lambda seed: _pretrain_as_llava(world, seed),
        "yes": lambda seed: world.pretrain(_find_captions(world), seed),
    }
    arms = tuple(
        Arm((in_pretraining, in_tuning), _examine(world, seeds, pretrain, share))
        for in_pretraining, pretrain in pretrainings.items()
        for in_tuning, share in (("no", 0.0), ("yes", _SWAPPED))
    )
    return Study(
        "table4",
        "Detailed captions in pretraining and in fine-tuning",
        ("pretraining", "SFT"),
        published.TABLE_4,
        arms,
        (
            Claim("Detailed captions in fine-tuning alone help.", 1, 0),
            Claim("Detailed captions in pretraining alone help.", 2, 0),
            Claim("In both stages they help more than in fine-tuning alone.", 3, 1),
            Claim("In both stages they help more than in pretraining alone.", 3, 2),
        ),
        "Without detailed captions, pretraining is that of LLaVA-1.5: noisy captions, and only the "
        "projector learns. Fine-tuning then has imagined descriptions.",
    )


def build_table_5(world: DemoWorld, seeds: Seeds) -> Study:
    """Captions of graded quality for the same pictures, trained in the same way."""
    sources = {name: world.find("pretrain", f"{name}.json") for name in ("noisy", "brief")}
    sources["imagined"] = world.find("pretrain", "imagined.json")
    sources["Share-Captioner"] = _find_captions(world)
    sources["exact"] = world.find("pretrain", "teacher.json")
    baseline = _examine(world, seeds, lambda seed: _pretrain_as_llava(world, seed), _SWAPPED)
    arms = [Arm(("baseline",), baseline)]
    for name, data in sources.items():
        exams = _examine(world, seeds, lambda s, data=data: world.pretrain(data, s), _SWAPPED)  # type: ignore[misc]
        arms.append(Arm((name,), exams))
    return Study(
        "table5",
        "The quality of captions in pretraining",
        ("captions in pretraining",),
        published.TABLE_5,
        tuple(arms),
        (
            Claim("Training all parts on noisy captions helps over the projector alone.", 1, 0),
            Claim("The Share-Captioner's captions help more than noisy ones.", 4, 1),
            Claim("They help more than brief ones.", 4, 2),
            Claim("They help more than imagined ones.", 4, 3),
        ),
        "The paper has the baseline, noisy captions (BLIP) and those of the Share-Captioner; the "
        "other sources are ours. Exact captions are the most that any captioner could reach.",
    )


def build_table_6(world: DemoWorld, seeds: Seeds) -> Study:
    """The first block of the vision tower that learns in pretraining."""
    arms = tuple(
        Arm(
            (name,),
            _examine(
                world,
                seeds,
                lambda seed, block=block: world.pretrain(_find_captions(world), seed, block),  # type: ignore[misc]
                _SWAPPED,
            ),
        )
        for name, block in _BLOCKS
    )
    return Study(
        "table6",
        "Which vision blocks learn in pretraining",
        ("tower learns from block",),
        published.TABLE_6,
        arms,
        (
            Claim("The latter half of the tower should learn, rather than none of it.", 2, 0),
            Claim("The latter half is better than the whole tower.", 2, 4),
        ),
        "A tower of four blocks stands for one of 24: a quarter is one block instead of six.",
    )


def build_figure_2(world: DemoWorld, seeds: Seeds) -> Study:
    """The share of the mixture's descriptions that is replaced, for two sizes of model."""
    sizes: tuple[ModelSize, ...] = ("small", "large")
    arms = []
    for size in sizes:
        for share in _SHARES:
            exams = _examine(
                world,
                seeds,
                lambda seed, size=size: _pretrain_as_llava(world, seed, size),  # type: ignore[misc]
                share,
                size,
            )
            arms.append(Arm((size, f"{share:.0%}"), exams, share, size))
    count = len(_SHARES)
    return Study(
        "figure2",
        "Descriptions replaced in fine-tuning, by the share of them and the size of the model",
        ("model", "replaced"),
        published.FIGURE_2,
        tuple(arms),
        (
            Claim("Replacing all descriptions helps the small model.", count - 1, 0),
            Claim("Replacing all descriptions helps the large model.", 2 * count - 1, count),
        ),
        "Models are pretrained as LLaVA-1.5 is; only descriptions of the mixture differ.",
    )


def build_figure_6(world: DemoWorld, seeds: Seeds) -> Study:
    """The number of captions in pretraining."""
    none = _examine(world, seeds, lambda seed: _pretrain_as_llava(world, seed), _SWAPPED)
    arms = [Arm(("none",), none, 0.0, "captions")]
    views = world.sizes.pretrain_views
    for name, part in _COUNTS.items():
        count = views // part

        def pretrain(seed: int, count: int = count) -> Command:
            return world.pretrain(world.sample_captions(count, seed), seed, count=count)

        exams = _examine(world, seeds, pretrain, _SWAPPED)
        arms.append(Arm((name,), exams, count / views, "captions"))
    return Study(
        "figure6",
        "The number of captions in pretraining",
        ("captions in pretraining",),
        published.FIGURE_6,
        tuple(arms),
        (
            Claim("One twelfth of the captions already helps.", 1, 0),
            Claim("All captions help more than one twelfth.", 4, 1),
            Claim("All captions help more than half of them, so nothing is saturated.", 4, 3),
        ),
        "Every number of captions is one epoch, as in the paper: fewer captions are fewer steps.",
    )


def build_table_2(world: DemoWorld, seeds: Seeds) -> Study:
    """The captioner against the teacher, by exactness."""
    return Study(
        "table2",
        "The Share-Captioner against its teacher",
        ("",),
        published.TABLE_2,
        note="No judge: of two captions of a picture, the one with more right and fewer wrong "
        "sentences is preferred. The teacher is exact, so it can lose none.",
        captions=(world.export_captions(),),
    )


def build_stablellava_figure_6(world: DemoWorld, seeds: Seeds) -> Study:
    """Synthesised records beside the mixture, asked about generated images."""

    def examine(with_synthesised: bool) -> tuple[Command, ...]:
        mixture = world.find("mixture", "mixture.json")
        return tuple(
            world.evaluate_keywords(
                world.finetune(
                    _pretrain_as_llava(world, seed),
                    mixture,
                    seed,
                    with_synthesised=with_synthesised,
                )
            )
            for seed in seeds
        )

    return Study(
        "stablellava-figure6",
        "Synthesised data beside the mixture",
        ("synthesised data",),
        published.STABLELLAVA_FIGURE_6,
        (Arm(("no",), examine(False)), Arm(("yes",), examine(True))),
        (Claim("Synthesised data help with questions about generated images.", 1, 0),),
        "Drawn scenes can express one of the twelve abilities, color, and none of its test prompts "
        "is trained on. Records of three abilities with two images are trained on, too.",
        measures=(Measure("stablellava", "color, % right"),),
    )


STUDIES: dict[str, Callable[[DemoWorld, Seeds], Study]] = {
    "table4": build_table_4,
    "table5": build_table_5,
    "table6": build_table_6,
    "figure2": build_figure_2,
    "figure6": build_figure_6,
    "table2": build_table_2,
    "stablellava-figure6": build_stablellava_figure_6,
}
"""Builders of studies by name."""
