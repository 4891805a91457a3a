"""Caption jobs: recipes, flags, refusals, seeds, and the verdict on the bottleneck."""

from pathlib import Path

import pytest

from ray_jobs.caption import drop_demo_scenes
from ray_jobs.command_line import parse
from s4v_core.captioning.checks import check_job
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import ConfigError
from s4v_core.flow.spec import STAGES, UnitDone
from s4v_core.recipes import CAPTION
from s4v_core.runs.figures import Times
from tests.conftest import photo


def test_without_arguments_the_recipe_is_the_papers_below_the_root(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("S4V_ROOT", "s3://bucket/s4v/")
    job = parse(CAPTION, [], "")
    assert job.input == ("s3://bucket/s4v/images",)
    assert job.output == "s3://bucket/s4v/captions"


def test_without_the_root_one_sentence_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("S4V_ROOT", raising=False)
    with pytest.raises(ConfigError, match="S4V_ROOT is not set; set it to"):
        parse(CAPTION, [], "")


def test_a_repeated_input_replaces_the_recipes() -> None:
    job = parse(CAPTION, ["demo", "--input", "a", "--input", "b"], "")
    assert job.input == ("a", "b")


@pytest.mark.parametrize(
    ("flags", "sentence"),
    [
        (["demo", "--limit", "-5"], "limit: found -5"),
        (["demo", "--inptu", "x"], "--inptu.*did you mean --input"),
        (["demo", "--engine", "foo"], "invalid choice 'foo'"),
        (["demo", "--limit"], "Missing value for argument '--limit'"),
        (["demo", "--prompt", "a", "--prompts", "b"], "found --prompt and --prompts"),
        (["demo", "--prompt", " "], "found an empty text"),
        (["dmeo"], "recipe: found 'dmeo', allowed demo, paper"),
    ],
)
def test_wrong_usage_is_one_sentence(flags: list[str], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        parse(CAPTION, flags, "")
    assert "\n" not in str(refusal.value)


def test_a_seed_belongs_to_an_images_content() -> None:
    drawn = SamplingConfig(temperature=0.5, seed=1)
    assert drawn.seed_of("a") == drawn.seed_of("a") != drawn.seed_of("b")
    assert SamplingConfig(temperature=0).seed_of("a") is None


def _build_unit(**times: float) -> UnitDone:
    zero = dict.fromkeys((*STAGES.values(), "queued_s"), 0.0)
    counts = {
        "unit": 0,
        "rows": 10,
        "generated": 10,
        "generated_ok": 10,
        "attempts": 10,
        "engine_starts": 0,
        "ok": 10,
        "rejected": 0,
        "error": 0,
        "sums": {},
    }
    return UnitDone(wrote=True, reasons=(), **counts, **(zero | times))


@pytest.mark.parametrize(
    ("times", "verdict"),
    [
        ({"generate_s": 9.0, "idle_s": 0.2}, "engine"),
        ({"generate_s": 2.0, "idle_s": 7.0, "decode_s": 30.0, "read_s": 1.0}, "decode"),
        ({"generate_s": 2.0, "idle_s": 7.0, "decode_s": 3.0, "read_s": 60.0}, "read"),
        ({"generate_s": 9.0, "commit_s": 5.0, "queued_s": 12.0, "read_s": 1.0}, "write"),
        ({"generate_s": 9.0, "commit_s": 5.0, "queued_s": 12.0, "read_s": 2.0}, "read"),
        ({"generate_s": 9.0, "commit_s": 5.0, "queued_s": 8.0}, "engine"),
        ({"generate_s": 25.0, "commit_s": 5.0, "queued_s": 30.0, "decode_s": 9.0}, "engine"),
    ],
)
def test_the_verdict_names_what_the_engine_waited_for(
    times: dict[str, float], verdict: str
) -> None:
    total = Times()
    total.add(_build_unit(**times))
    assert total.find_bottleneck(wall_s=10.0, engines=1) == verdict
    assert total.ms_per_row()["engine"] == times["generate_s"] * 100


def test_the_demo_needs_nothing_but_the_checkout() -> None:
    job = CAPTION["demo"]
    assert not any("$" in place or "://" in place for place in (*job.input, job.output, job.model))
    assert not Path(job.output).is_absolute()


def test_an_output_in_no_bucket_is_refused_before_the_input_is_indexed(
    s3_server: str, tmp_path: Path
) -> None:
    (tmp_path / "one.jpg").write_bytes(photo(1))
    output = "s3://no-such-bucket-of-ours/run"
    job = CaptionJob(input=(str(tmp_path),), output=output, model="none", engine="fake")
    with pytest.raises(ConfigError, match=r"output: s3://no-such-bucket-of-ours/run cannot be"):
        check_job(job)


def test_a_typo_in_the_input_draws_no_demo_world() -> None:
    recipe = CAPTION["demo"]
    assert drop_demo_scenes(recipe, recipe).demo_scenes == recipe.demo_scenes
    assert drop_demo_scenes(recipe.replace(input=("scenez",)), recipe).demo_scenes == 0
    more = recipe.replace(input=("scenes",), demo_scenes=recipe.demo_scenes + 1)
    assert drop_demo_scenes(more, recipe).demo_scenes == more.demo_scenes
