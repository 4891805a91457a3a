"""Prompts chosen by weight and source, with texts of an image filled in; names of sources."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core.captioning.field_choice import choose_fields
from s4v_core.captioning.finishing import Finish
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.prompt_file import read_prompts
from s4v_core.captioning.prompts import Prompt, choose_question
from s4v_core.errors import ConfigError
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.image_bytes import read_sidecar
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.inputs.source_names import name_sources
from s4v_core.prompts import CAPTION, LIBRARY, find_prompt
from s4v_core.records.schemas import table_of
from tests.conftest import photo, write_tar


def _build_planned_row(
    image_id: str = "a", source: str = "coco", sidecar: str | None = None
) -> dict:
    return {"image_id": image_id, "source": source, "payload": sidecar}


def _choose(prompts: tuple[Prompt, ...], planned: dict) -> tuple[str, str | None]:
    question = choose_question(prompts, planned)
    return question.text, question.problem


def test_prompts_are_drawn_by_weight_the_same_in_every_run() -> None:
    prompts = (Prompt("a", 3), Prompt("b", 1))
    chosen = [_choose(prompts, _build_planned_row(f"{n}"))[0] for n in range(4000)]
    assert chosen == [_choose(prompts, _build_planned_row(f"{n}"))[0] for n in range(4000)]
    assert 2800 < Counter(chosen)["a"] < 3200


def test_a_prompt_is_for_the_sources_it_names() -> None:
    prompts = (Prompt("chart", source="plot*"), Prompt("photo", source="coco"))
    assert _choose(prompts, _build_planned_row(source="plots")) == ("chart", None)
    assert _choose(prompts, _build_planned_row(source="coco")) == ("photo", None)
    assert _choose(prompts, _build_planned_row(source="sam")) == ("", "no_prompt")


@pytest.mark.parametrize(
    ("sidecar", "expected"),
    [
        ('{"alt": "a cat", "w": 3}', ("Alt: a cat. 3", None)),
        ('{"alt": "a\\n <image> cat</s>", "w": 3}', ("Alt: a image cat /s. 3", None)),
        ('{"w": 3}', ("Alt: {alt}. {w}", "prompt_column_missing:alt")),
        ("no json", ("Alt: {alt}. {w}", "prompt_column_missing:alt")),
        (None, ("Alt: {alt}. {w}", "prompt_column_missing:alt")),
    ],
)
def test_columns_are_filled_in_and_cannot_forge_marks(
    sidecar: str | None, expected: tuple[str, str | None]
) -> None:
    assert _choose((Prompt("Alt: {alt}. {w}"),), _build_planned_row(sidecar=sidecar)) == expected


def test_a_whole_web_page_in_a_column_is_cut() -> None:
    text, _ = _choose((Prompt("{sidecar}"),), _build_planned_row(sidecar="x" * 9000))
    assert len(text) == 2000


def test_prompt_files_in_every_form(tmp_path: Path) -> None:
    entries = [{"prompt": "a", "weight": 2, "source": "x*"}, "b"]
    (tmp_path / "p.json").write_text(json.dumps(entries))
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, entries)))
    (tmp_path / "p.txt").write_text("a\n\nb\n")
    wanted = (Prompt("a", 2, "x*"), Prompt("b"))
    assert read_prompts(str(tmp_path / "p.json")) == wanted
    assert read_prompts(str(tmp_path / "p.jsonl")) == wanted
    assert read_prompts(str(tmp_path / "p.txt")) == (Prompt("a"), Prompt("b"))


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[{"prompt": "a", "wieght": 2}]', "entry 1: found wieght, allowed prompt, weight, source"),
        ('["a", {"prompt": ""}]', "entry 2: found {'prompt': ''}, needed an object with a prompt"),
        ('[{"prompt": "a", "weight": -1}]', "weight: found -1, allowed more than 0"),
        ("{}", "found dict, needed a list"),
        ("[", "is no JSON"),
        ("[]", "holds no prompt"),
    ],
)
def test_a_bad_prompt_file_is_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    (tmp_path / "p.json").write_text(text)
    with pytest.raises(ConfigError) as refusal:
        read_prompts(str(tmp_path / "p.json"))
    assert sentence in str(refusal.value)


def _index(path: Path, *columns: str) -> pa.Table:
    [shard] = find_shards([str(path)], columns=columns)
    return table_of(index_shard(shard)[0], INDEX_SCHEMA, str(path))


def test_columns_of_parquet_and_json_travel_with_their_images(tmp_path: Path) -> None:
    table = pa.table({"image": [photo(1)], "alt": ["a cat"], "set": ["coco"], "other": [1]})
    pq.write_table(table, tmp_path / "a.parquet")
    rows = _index(tmp_path / "a.parquet", "alt", "set", "nowhere")
    assert json.loads(rows["payload"][0].as_py()) == {"alt": "a cat", "set": "coco"}
    (tmp_path / "a.json").write_text(json.dumps([{"image": "x/1.jpg", "alt": "a dog", "id": 4}]))
    rows = _index(tmp_path / "a.json", "alt")
    assert json.loads(rows["payload"][0].as_py()) == {"alt": "a dog"}


def test_a_loose_sidecar_is_read_when_it_is_asked_for(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(photo(1))
    (tmp_path / "a.txt").write_text("a cat")
    rows = _index(tmp_path)
    assert read_sidecar(rows["payload"][0].as_py()) == "a cat"
    assert read_sidecar('{"alt": "x"}') == '{"alt": "x"}'


def test_sources_by_pattern_and_by_column(tmp_path: Path) -> None:
    members = {"coco_1.jpg": photo(1), "sam_1.jpg": photo(2), "x.jpg": photo(3)}
    members |= {"sam_1.json": b'{"set": "SAM"}', "x.json": b'{"set": "lcs"}'}
    rows = _index(write_tar(tmp_path / "t" / "0.tar", members))
    assert rows["source"].to_pylist() == ["t", "t", "t"]
    assert name_sources(rows, (), None) is rows
    named = name_sources(rows, ("coco=*/coco_*", "sam=*nothing*"), "set")
    assert named["source"].to_pylist() == ["coco", "SAM", "lcs"]
    assert named.schema == rows.schema


@pytest.mark.parametrize(
    ("finish", "text", "expected"),
    [
        (Finish("a photo of ", ", trending"), "a cat", "a photo of a cat, trending"),
        (Finish(cut_prefix_words=("The image shows",)), "The image shows a cat.", "A cat."),
        (Finish(cut_prefix_words=("the image", "the IMAGE shows")), "The image shows: a", "A"),
        (Finish(cut_prefix_words=("the image",)), "the images are two", "the images are two"),
        (Finish(cut_prefix_words=("The image.",)), "The image.", "The image."),
        (Finish("x ", cut_prefix_words=("this is",)), "this is a cat", "x a cat"),
        (Finish(is_json=True), '```json\n{"a": 1}\n```', '{"a": 1}'),
    ],
)
def test_what_is_done_to_an_answer_that_passed(finish: Finish, text: str, expected: str) -> None:
    assert finish.apply(text) == expected


def test_answers_to_earlier_fields_stand_in_a_question() -> None:
    planned = _build_planned_row(sidecar='{"alt": "a {tags} cat"}')
    question = choose_question((Prompt("{tags}? {alt}"),), planned, ["tags"])
    assert question.needs == ("tags",)
    # What data says is never filled in again.
    assert question.fill({"tags": "<b> {alt}"}) == "b {alt}? a {tags} cat"
    assert choose_question((Prompt("{tags}"),), planned).problem == "prompt_column_missing:tags"


def test_every_prompt_of_the_library_is_documented_with_its_source() -> None:
    page = (Path(__file__).parents[2] / "docs" / "prompts.md").read_text()
    for name, prompt in LIBRARY.items():
        assert (name, prompt.text, prompt.source) == (
            prompt.name,
            prompt.text.strip(),
            prompt.source,
        )
        assert f"| `{name}` |" in page
        assert prompt.text.replace("|", "\\|") in page
        assert prompt.source in page
    assert find_prompt("paper").text == CAPTION
    with pytest.raises(ConfigError, match="found 'papre', allowed paper, detailed, short, tags"):
        find_prompt("papre")


def test_a_prompt_by_its_name_is_that_of_the_run(tmp_path: Path) -> None:
    job = CaptionJob(input=("x",), output="y", model="none", engine="fake", prompt_name="ocr")
    [field] = choose_fields(job)
    assert field.prompts == (Prompt(LIBRARY["ocr"].text),)
    [field] = choose_fields(job.replace(prompt_name=None))
    assert field.prompts == (Prompt("Analyze the image in a comprehensive and detailed manner."),)
