"""Schedule, operations and memory against numbers worked out by hand."""

import math

import pytest

from s4v_core.model.builders import build_sharegpt4v_7b_config
from s4v_core.recipes import FINETUNE, PAPER_MEMORY_GB, PRETRAIN, PUBLISHED_UTILISATION
from s4v_core.training.arithmetic.flops import find_peak_flops
from s4v_core.training.arithmetic.shapes import read_shape
from s4v_core.training.estimate.forecast import Published, forecast_stage
from s4v_core.training.schedule import compute_learning_rate, count_warmup_steps
from s4v_core.training.stage import Optimiser

SHAPE = read_shape(build_sharegpt4v_7b_config())


def test_operations_of_the_paper_models_sample() -> None:
    # 2 x 6,607,077,376 weights x 776 tokens + attention; the 64 added rows of the head aside.
    assert SHAPE.count_language_flops(776) == pytest.approx(10.57e12, rel=1e-3)
    assert 23 * SHAPE.count_block_flops() == pytest.approx(0.366e12, rel=3e-3)
    assert SHAPE.count_projector_flops() == pytest.approx(0.024e12, rel=1e-2)
    pretrain = 3 * SHAPE.count_language_flops(776) + SHAPE.count_image_flops(12, False, True)
    finetune = 3 * SHAPE.count_language_flops(876) + SHAPE.count_image_flops(None, False, True)
    assert pretrain == pytest.approx(32.5e12, rel=5e-3)
    assert finetune == pytest.approx(36.4e12, rel=5e-3)


def test_an_unknown_device_has_no_peak() -> None:
    assert find_peak_flops("NVIDIA A100-SXM4-80GB") == 312e12
    assert find_peak_flops("NVIDIA H200") == 989e12
    assert find_peak_flops("NVIDIA GeForce RTX 9090") is None


def test_the_rate_rises_for_the_papers_147_steps_and_falls_to_zero() -> None:
    settings = Optimiser(learning_rate=2e-5)
    assert (count_warmup_steps(4871, settings), count_warmup_steps(5196, settings)) == (147, 156)
    rates = [compute_learning_rate(step, 4871, settings) for step in range(4871)]
    assert max(rates) == rates[147] == 2e-5
    assert rates[0] == pytest.approx(2e-5 / 148)
    assert rates[147 + 2362] == pytest.approx(1e-5, rel=1e-3)
    assert 0 < rates[-1] < 1e-11 * math.pi


def test_the_plan_of_the_papers_pretraining() -> None:
    published = Published(PAPER_MEMORY_GB, PUBLISHED_UTILISATION)
    found = forecast_stage(PRETRAIN["paper"], published)
    assert (found.steps, found.warmup, found.parameters) == (4871, 147, 7_063_427_072)
    assert [choice.vision_from for choice in found.choices] == [24, 18, 12, 6, 0]
    assert [choice.published_gb for choice in found.choices] == [49.6, None, 56.7, None, 63.6]
    components = found.choices[2].components
    state = sum(components[name] for name in components if "sharded" in name)
    assert state == pytest.approx(16 * 6_898_478_080 / 16 + 4 * 164_948_992 / 16, rel=1e-6)
    text = found.as_text()
    assert "6,898,478,080" in text
    assert "not modelled" in text
    assert "11.9 h at 19% utilisation" in text


def test_a_plan_without_published_figures_names_none() -> None:
    assert "Table 6" not in forecast_stage(FINETUNE["paper"]).as_text()
