"""The demo painter: its prompts, its tokens, its training, and the one that is shipped."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from s4v_core.demo.painter_model import PROMPT_TOKENS, build_tokenizer
from s4v_core.demo.painter_prompts import (
    list_painter_words,
    vary_scene_prompt,
    write_scene_prompt,
)
from s4v_core.demo.painter_stage import PainterStage
from s4v_core.demo.scenes import Scene, invent_scene
from s4v_core.demo.shipped import PAINTER
from s4v_core.pipelines import locate_pipeline

ROOT = Path(__file__).resolve().parents[2]
TINY = ("--scenes", "64", "--text-steps", "3", "--steps", "8", "--batch-size", "4")


@pytest.fixture
def scenes() -> list[Scene]:
    chance = random.Random(5)
    return [invent_scene(chance) for _ in range(400)]


def _facts(prompt: str) -> set[str]:
    """Parts of a prompt without brackets and without words that say nothing of a scene."""
    parts = re.sub(r"[()]", "", prompt).split(", ")
    return {part for part in parts if re.search(r"background|top|bottom", part)}


def test_a_varied_prompt_says_the_same(scenes: list[Scene]) -> None:
    chance = random.Random(1)
    for scene in scenes:
        varied = vary_scene_prompt(scene, chance)
        assert _facts(varied) == _facts(write_scene_prompt(scene))
        assert varied.count("((") == varied.count("))") <= 1


def test_each_word_is_one_token_and_every_prompt_fits(scenes: list[Scene]) -> None:
    tokenizer, chance = build_tokenizer(), random.Random(2)
    for word in filter(lambda word: not re.search(r"\d", word), list_painter_words()):
        assert len(tokenizer(word).input_ids) == 3, word  # with the first and the last token
    lengths = [len(tokenizer(vary_scene_prompt(scene, chance)).input_ids) for scene in scenes]
    assert max(lengths) <= PROMPT_TOKENS
    focused = tokenizer("((small red circle top left)), white background").input_ids
    assert len(focused) == 2 + 5 + 2 + 2


def test_the_codec_keeps_scenes() -> None:
    from s4v_core.demo.painter_lessons import draw_lessons

    lessons = draw_lessons(200, 3)
    again = draw_lessons(200, 3)
    assert torch.equal(lessons.latents, again.latents)
    decoded = lessons.codec.decode(lessons.latents).sample
    encoded = lessons.codec.encode(decoded)
    assert torch.allclose(encoded, lessons.latents, atol=1e-3)
    assert 0.5 < float(lessons.latents.std()) < 1.5


def _train(output: Path, *more: str) -> subprocess.Popen[bytes]:
    script = str(ROOT / "ray_jobs" / "train_painter.py")
    every = ("--save-every-steps", "2", "--scored", "0")
    command = [sys.executable, script, "demo", "--output", str(output), *TINY, *every, *more]
    return subprocess.Popen(
        command,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


@pytest.fixture
def stop_at_end() -> Iterator[list[subprocess.Popen[bytes]]]:
    started: list[subprocess.Popen[bytes]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_killed_training_ends_with_the_same_weights(
    tmp_path: Path, stop_at_end: list[subprocess.Popen[bytes]]
) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    first = _train(whole)
    stop_at_end.append(first)
    assert first.communicate()[1] is not None
    assert first.returncode == 0
    second = _train(killed)
    stop_at_end.append(second)
    deadline = time.monotonic() + 600
    while not (killed / "checkpoint.pt").exists():
        assert second.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    second.send_signal(signal.SIGKILL)
    second.communicate()
    assert not (killed / "model").exists()
    other = _train(killed, "--learning-rate", "0.5")
    stop_at_end.append(other)
    _, err = other.communicate()
    assert other.returncode == 2
    assert b"begun with other settings" in err
    third = _train(killed)
    stop_at_end.append(third)
    _, err = third.communicate()
    assert third.returncode == 0
    assert b"resumed at step" in err
    for weights in whole.glob("model/*/*.safetensors"):
        found = load_file(killed / weights.relative_to(whole))
        for name, tensor in load_file(weights).items():
            assert torch.equal(found[name], tensor), name


def test_the_shipped_painter_is_small_and_a_pipeline() -> None:
    files = [path for path in PAINTER.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 20 << 20
    folder, revision = locate_pipeline(str(PAINTER))
    assert folder == PAINTER
    assert revision.startswith("sha256:")
    assert PainterStage(output="x").steps > 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_shipped_painter_draws_what_prompts_say() -> None:
    from s4v_core.demo.painter_score import score_painter

    score = score_painter(PAINTER, 60)
    assert score.right / score.attributes > 0.95, score.as_text()
    assert score.exact / score.scenes > 0.7, score.as_text()
