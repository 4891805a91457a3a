"""Which parameters of ShareGPT4V-7B learn, by stage and first vision block, on the meta device."""

import pytest
import torch
from transformers import LlavaForConditionalGeneration

from s4v_core.model.builders import build_sharegpt4v_7b_config
from s4v_core.model.learning import count_learning, set_learning
from s4v_core.recipes import CAPTIONER, FINETUNE, PRETRAIN

LANGUAGE, PROJECTOR = 6_738_939_904, 20_979_712
"""Parameters with 32,064 vocabulary rows: the language model has 524,288 more than Vicuna-7B."""


@pytest.fixture(scope="module")
def model() -> LlavaForConditionalGeneration:
    with torch.device("meta"):
        return LlavaForConditionalGeneration(build_sharegpt4v_7b_config())


def test_the_shape_is_that_of_sharegpt4v_7b(model: LlavaForConditionalGeneration) -> None:
    assert sum(p.numel() for p in model.parameters()) == 7_063_427_072
    counts = count_learning(model)
    vision = sum(whole for name, (_, whole) in counts.items() if name.startswith("vision"))
    assert vision == 303_507_456


@pytest.mark.parametrize(
    ("start", "learns"),
    [(None, 0), (24, 0), (18, 62_981_120), (12, 138_558_464), (6, 214_135_808), (0, 289_713_152)],
)
def test_vision_blocks_learn_from_the_named_one_up_to_the_features(
    model: LlavaForConditionalGeneration, start: int | None, learns: int
) -> None:
    set_learning(model, start, vision_stem=False, projector=True, language=True)
    counts = {name: learning for name, (learning, _) in count_learning(model).items()}
    assert counts == {
        "vision_stem": 0,
        "vision_blocks": learns,
        "vision_unused": 0,
        "projector": PROJECTOR,
        "language": LANGUAGE,
    }


@pytest.mark.parametrize(
    ("stage", "stem", "lower", "upper", "unused", "projector", "language"),
    [
        (CAPTIONER["paper"], False, False, False, False, True, True),
        (PRETRAIN["paper"], False, False, True, False, True, True),
        (FINETUNE["paper"], False, False, False, False, True, True),
    ],
)
def test_every_parameter_of_a_stage_learns_or_not(
    model, stage, stem, lower, upper, unused, projector, language
) -> None:
    set_learning(model, **stage.learning.model_dump())
    expected = {
        "embeddings.": stem,
        "pre_layrnorm.": stem,
        "post_layernorm.": unused,
        **{f"encoder.layers.{n}.": lower for n in range(12)},
        **{f"encoder.layers.{n}.": upper for n in range(12, 23)},
        "encoder.layers.23.": unused,
    }
    for name, parameter in model.named_parameters():
        if name.startswith("model.vision_tower."):
            rest = name.removeprefix("model.vision_tower.")
            [wanted] = [learns for part, learns in expected.items() if rest.startswith(part)]
        else:
            wanted = projector if "multi_modal_projector" in name else language
        assert parameter.requires_grad == wanted, name
