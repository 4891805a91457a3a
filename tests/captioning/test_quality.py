"""The quality column: its numbers are those of the model's own formulas, swapped captions have the
lowest, and the flow writes them in the pass or afterwards."""

import asyncio
import random
import threading
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers
from PIL import Image

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.comparison import compare_runs
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.quality import Quality
from s4v_core.captioning.review import Reviewer
from s4v_core.captioning.score_pass import score_run
from s4v_core.captioning.scorer_choice import choose_scorer
from s4v_core.captioning.scores import Scores, score_units
from s4v_core.demo.scenes import draw_scenes
from s4v_core.demo.texts import write_caption
from s4v_core.engines.requests import Request
from s4v_core.engines.scorer_spec import ScorerSpec
from s4v_core.engines.scoring import BatchingScorer
from s4v_core.engines.similarity import PairScorer
from s4v_core.errors import ConfigError, EngineError, InputError
from s4v_core.records.captions import caption_units
from s4v_core.runs.outcome import DONE
from tests.captioning.captioned_run import caption_inputs
from tests.captioning.demo_scorer import build_scorer, train_scorer
from tests.conftest import photo, write_tar

LONG = "The image shows two shapes on a white background. " * 12


def _spec(folder: Path, **changes: object) -> ScorerSpec:
    return ScorerSpec(str(folder), "sha256:0", "cpu", **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorers") / "clip"
    build_scorer(folder)
    return folder


@pytest.fixture(scope="module")
def siglip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scorers") / "siglip"
    build_scorer(folder, "siglip", 24)
    return folder


def _draw_pairs(count: int) -> list[tuple[np.ndarray, str]]:
    return [
        (np.asarray(image), write_caption(scene)) for scene, image in islice(draw_scenes(5), count)
    ]


def test_a_score_of_clip_is_clipscore(clip: Path) -> None:
    pairs = _draw_pairs(6)
    model = transformers.CLIPModel.from_pretrained(clip).eval()
    processor = transformers.CLIPProcessor.from_pretrained(clip)
    expected = []
    for picture, text in pairs:
        inputs = processor(images=Image.fromarray(picture), text=text, return_tensors="pt")
        with torch.inference_mode():
            logit = model(**inputs).logits_per_image.item()
        cosine = logit / model.logit_scale.exp().item()
        expected.append(2.5 * max(cosine, 0))
    assert PairScorer(_spec(clip)).score(pairs) == pytest.approx(expected, abs=1e-5)
    assert max(expected) > 0


def test_a_score_of_siglip_is_a_probability(siglip: Path) -> None:
    pairs = [(picture, "a red circle on a white background") for picture, _ in _draw_pairs(4)]
    model = transformers.SiglipModel.from_pretrained(siglip).eval()
    processor = transformers.SiglipProcessor.from_pretrained(siglip)
    inputs = processor(
        images=[Image.fromarray(picture) for picture, _ in pairs],
        text=[pairs[0][1]],
        padding="max_length",
        max_length=24,
        return_tensors="pt",
    )
    with torch.inference_mode():
        expected = torch.sigmoid(model(**inputs).logits_per_image)[:, 0].tolist()
    assert PairScorer(_spec(siglip)).score(pairs) == pytest.approx(expected, abs=1e-5)


def test_a_long_caption_is_scored_in_pieces_of_whole_sentences(clip: Path) -> None:
    scorer = PairScorer(_spec(clip))
    picture, sentence = _draw_pairs(1)[0][0], "The image shows two shapes on a white background."
    pieces = scorer._split_text(LONG.strip())
    assert len(pieces) == 2
    assert " ".join(pieces) == LONG.strip()
    assert scorer._split_text("short text") == ["short text"]
    whole = scorer.score([(picture, LONG), (picture, sentence)])
    parts = scorer.score([(picture, piece) for piece in pieces])
    assert whole[0] == pytest.approx(np.mean(parts), abs=1e-5)  # none of them is negative
    assert min(parts) > 0
    assert PairScorer(_spec(clip, prefix="the image shows "))._split_text("a circle") == [
        "the image shows a circle"
    ]


def test_pairs_share_batches_and_the_loop_never_waits(clip: Path) -> None:
    pairs = _draw_pairs(20)

    async def score_all() -> list[float]:
        scorer = BatchingScorer(_spec(clip, batch_size=8))
        await scorer.score(*pairs[0])  # loads
        batches = list[int]()
        inner = scorer._score_batch
        threads = set[int]()

        def watch(batch: list) -> list[float]:
            batches.append(len(batch))
            threads.add(threading.get_ident())
            return inner(batch)

        scorer._score_batch = watch  # type: ignore[method-assign]
        found = await asyncio.gather(*(scorer.score(*pair) for pair in pairs))
        assert batches == [8, 8, 4]
        assert threading.get_ident() not in threads
        return found

    found = asyncio.run(score_all())
    assert found == pytest.approx(PairScorer(_spec(clip)).score(pairs), abs=1e-5)


def test_a_checkpoint_that_is_no_scorer_is_refused_before_anything_is_written(
    clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    assert choose_scorer(Quality(), "cpu") is None
    found = choose_scorer(Quality(model=str(clip)), "cpu")
    assert found is not None
    assert (found.device, found.revision[:7]) == ("cpu", "sha256:")
    with pytest.raises(ConfigError, match=r"quality\.model: .* has model_type llava, allowed clip"):
        choose_scorer(Quality(model=str(checkpoint)), "cpu")
    with pytest.raises(ConfigError, match=r"quality\.model: no such folder"):
        choose_scorer(Quality(model=str(tmp_path / "none")), "cpu")
    with pytest.raises(ConfigError, match=r"quality\.device: found gpu"):
        choose_scorer(Quality(model=str(clip), device="gpu"), "cpu")


def test_weights_that_cannot_be_loaded_end_in_a_sentence(clip: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text((clip / "config.json").read_text())
    scorer = BatchingScorer(_spec(tmp_path))
    with pytest.raises(EngineError, match="cannot score with"):
        asyncio.run(scorer.score(*_draw_pairs(1)[0]))


def test_a_pair_that_the_model_cannot_take_fails_alone(clip: Path) -> None:
    scorer, pairs = BatchingScorer(_spec(clip)), _draw_pairs(3)
    bad = np.zeros((4, 4, 3)), "a picture of floats, which no image is"

    async def score_all() -> list[float | str]:
        return await asyncio.gather(*(scorer.score(*pair) for pair in (*pairs, bad)))

    *scores, reason = asyncio.run(score_all())
    assert scores == pytest.approx(PairScorer(_spec(clip)).score(pairs), abs=1e-5)
    assert str(reason).startswith("score_failed:")


def _swap(count: int, swapped: int) -> tuple[list[tuple[np.ndarray, str]], set[int]]:
    """Scenes with their exact captions, of which some were moved in a circle."""
    drawn = list(islice(draw_scenes(31_000), count))
    captions = [write_caption(scene) for scene, _ in drawn]
    moved = random.Random(0).sample(range(count), swapped)
    given = dict(zip(moved, [*moved[1:], moved[0]], strict=True))
    pairs = [
        (np.asarray(image), captions[given.get(number, number)])
        for number, (_, image) in enumerate(drawn)
    ]
    return pairs, set(moved)


@pytest.mark.slow
def test_fifty_swapped_captions_among_five_hundred_have_the_lowest_scores(tmp_path: Path) -> None:
    train_scorer(tmp_path / "clip", scenes=1500, steps=180)
    pairs, moved = _swap(500, 50)
    scorer = PairScorer(_spec(tmp_path / "clip"))
    starts = range(0, len(pairs), 50)
    scores = np.concatenate([scorer.score(pairs[start : start + 50]) for start in starts])
    is_moved = np.isin(np.arange(500), list(moved))
    auc = (scores[is_moved][:, None] < scores[~is_moved][None]).mean()
    print(f"AUC {auc:.4f}")  # noqa: T201
    assert auc > 0.95


def _shard(folder: Path) -> Path:
    return write_tar(folder / "in" / "0.tar", {f"{n:02d}.jpg": photo(n) for n in range(10)})


def _job(folder: Path, scorer: Path | None) -> CaptionJob:
    return CaptionJob(
        input=(str(_shard(folder)),),
        output=str(folder / "out"),
        model="none",
        engine="fake",
        quality=Quality(model=str(scorer) if scorer else None),
    )


@pytest.mark.usefixtures("local_ray")
def test_a_pass_scores_its_captions(siglip: Path, tmp_path: Path) -> None:
    job = _job(tmp_path, siglip)
    assert run_pass(job).exit_code == DONE
    rows = caption_units(job.output).read(0).to_pylist()
    assert len(rows) == 10
    assert all(0 < row["quality"] < 1 for row in rows)
    page = (tmp_path / "out" / "report.html").read_text()
    assert "Quality of a caption, by source" in page
    assert "worst (10)" in page
    with pytest.raises(ConfigError, match="was made with quality"):
        run_pass(job.replace(quality=Quality()))
    again = run_pass(job.replace(quality=Quality(model=str(siglip), batch_size=4)))
    assert not again.has_run


@pytest.mark.usefixtures("local_ray")
def test_a_run_can_be_scored_afterwards(siglip: Path, tmp_path: Path) -> None:
    job, quality = _job(tmp_path, None), Quality(model=str(siglip))
    run_pass(job)
    rows = caption_units(job.output).read(0).to_pylist()
    assert {row["quality"] for row in rows} == {None}
    notes = (tmp_path / "out" / "run.json").read_text()
    assert score_run(job.output, quality).exit_code == DONE
    assert (tmp_path / "out" / "run.json").read_text() == notes
    scored = score_units(job.output).read(0).to_pylist()
    assert [row["image_id"] for row in scored] == [row["image_id"] for row in rows]
    assert all(0 < row["score"] < 1 for row in scored)
    filled = Scores(job.output).fill_in(0, rows)
    assert [row["quality"] for row in filled] == [row["score"] for row in scored]
    assert "worst (10)" in (tmp_path / "out" / "report.html").read_text()
    assert not score_run(job.output, quality).has_run
    assert compare_runs(job.output, job.output).here.scored == 10
    with pytest.raises(ConfigError, match="was made with prefix"):
        score_run(job.output, quality.replace(prefix="a "))


def test_only_a_finished_caption_run_can_be_scored(clip: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        score_run(str(tmp_path), Quality(model=str(clip)))
    caption_inputs(tmp_path / "out", _shard(tmp_path), units=1)
    with pytest.raises(InputError, match="2 units without captions"):
        score_run(str(tmp_path / "out"), Quality(model=str(clip)))
    assert not (tmp_path / "out" / "quality").exists()


def test_the_gate_uses_the_score(clip: Path) -> None:
    picture, text = _draw_pairs(1)[0]
    [score] = PairScorer(_spec(clip)).score([(picture, text)])
    request = Request("1", "1", (picture,), "Describe it.")
    for least, reason in ((score + 0.01, "low_quality"), (score - 0.01, None)):
        reviewer = Reviewer(_spec(clip), min_quality=least)
        found = asyncio.run(reviewer.review(request, text))
        assert found.reason == reason
        assert found.quality == pytest.approx(score, abs=1e-5)
