"""Fields: their file, their order, their columns, and what a row says where one of them fails."""

import asyncio
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from s4v_core.captioning.asking import ImageEnding, ask_image
from s4v_core.captioning.checks import check_job
from s4v_core.captioning.export import export_run
from s4v_core.captioning.field_file import read_fields
from s4v_core.captioning.fields import CaptionField
from s4v_core.captioning.first_captions import read_first_captions
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.prompts import choose_question
from s4v_core.captioning.report.gallery import build_cards
from s4v_core.captioning.report.survey import survey_run
from s4v_core.captioning.row_checks import build_checks
from s4v_core.datasets.joining import PlacedConversation, join_images
from s4v_core.engines.ladder import Ladder
from s4v_core.engines.requests import Generation, Request, fail
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import ConfigError, SchemaError
from s4v_core.prompts import LIBRARY
from s4v_core.records.captions import RESULT_SCHEMA, caption_contract, caption_units
from s4v_core.records.plan import require_plan_head
from s4v_core.runs.identity import refuse_other_settings
from s4v_core.runs.status import open_units, read_status
from s4v_core.runs.verification import verify_run
from tests.captioning.fields_run import FACTS, THREE, build_job, make_run, write_fields
from tests.conftest import photo
from tests.flow.oracle import check_rows, fake_caption_of


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    for number in range(5):
        (folder / f"{number}.jpg").write_bytes(photo(number, (64, 48)))
    return folder


def _read(folder: Path, fields: list[dict[str, Any]]) -> tuple[CaptionField, ...]:
    return read_fields(write_fields(folder, fields), SamplingConfig(), Gate(), Ladder())


def _fake_field(data: bytes, prompt: str) -> str:
    """The fake engine's answer to one of several questions, without the project's code."""
    return f"{fake_caption_of(data)} Question {zlib.crc32(prompt.encode()):08x}."


def test_every_field_has_its_own_column_and_its_own_answer(images: Path, tmp_path: Path) -> None:
    make_run(build_job(images, tmp_path / "out", fields=write_fields(tmp_path, THREE)))
    rows = check_rows(tmp_path / "out")
    assert len(rows) == 5
    for row in rows:
        data = (images / row["image_id"]).read_bytes()
        tags = _fake_field(data, LIBRARY["tags"].text) + " #end"
        assert (row["status"], row["tags"], row["caption"]) == ("ok", tags, tags)
        asked = f"These tags fit: {tags}. Describe it."
        assert row["long"] == "Photo. " + _fake_field(data, asked)
        facts = json.loads(row["facts"])
        assert facts["subject"] == _fake_field(data, "What are the facts?")
        assert row["facts_values"] == facts | {"place": json.dumps(facts["place"])}
        account = json.loads(row["fields"])
        assert list(account) == ["tags", "facts", "long"]
        assert account["long"]["prompt"] == asked
        assert {one["status"] for one in account.values()} == {"ok"}
        assert row["attempts"] == sum(one["attempts"] for one in account.values()) == 3
        tokens = [one["output_tokens"] for one in account.values()]
        assert row["output_tokens"] == sum(tokens)
        assert row["prompt"] == LIBRARY["tags"].text


def test_a_field_called_caption_is_the_caption_wherever_it_stands(
    images: Path, tmp_path: Path
) -> None:
    fields = [{"name": "tags", "prompt": "Tags?"}, {"name": "caption", "prompt": "Describe it."}]
    make_run(build_job(images, tmp_path / "out", fields=write_fields(tmp_path, fields)))
    for row in check_rows(tmp_path / "out"):
        data = (images / row["image_id"]).read_bytes()
        assert row["caption"] == _fake_field(data, "Describe it.")
        assert row["tags"] == _fake_field(data, "Tags?")
        assert row["prompt"] == "Describe it."


def test_a_run_without_fields_has_the_columns_of_ever(images: Path, tmp_path: Path) -> None:
    checked = make_run(build_job(images, tmp_path / "out", prefill="It shows", append="!"))
    assert checked.settings["fields"] == []
    units = caption_units(str(tmp_path / "out"))
    assert units.read(0).schema == RESULT_SCHEMA
    row = units.read(0).to_pylist()[0]
    assert row["caption"] == "It shows" + fake_caption_of(photo(0, (64, 48))) + "!"
    assert row["reason"] is None


def test_readers_take_the_columns_from_the_plan(images: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    make_run(build_job(images, tmp_path / "out", fields=write_fields(tmp_path, THREE)))
    head = require_plan_head(output)
    with pytest.raises(SchemaError):
        caption_units(output).read(0)
    contract = caption_contract(head.settings["fields"])
    assert caption_units(output, head.settings).read(0).schema == contract.schema
    units = open_units(output, {"captions": lambda settings: caption_contract(settings["fields"])})
    assert read_status(units).counts.ok == 5
    assert verify_run(units, build_checks(head.settings)).is_sound
    shown = dict(read_first_captions(output, 2))["0.jpg"]
    assert shown.startswith("tags: A fake caption")
    assert "; long: Photo. A fake" in shown
    cards = build_cards(output, survey_run(output, head), head.settings)
    assert cards.count("<b>long</b> Photo. A fake caption") == 5
    joined = list(join_images((output,), (), None))
    assert len(joined) == 5
    assert all(isinstance(one, PlacedConversation) for one in joined)


def test_verification_finds_a_field_that_is_lost_or_breaks_its_schema(
    images: Path, tmp_path: Path
) -> None:
    output = str(tmp_path / "out")
    make_run(build_job(images, tmp_path / "out", fields=write_fields(tmp_path, THREE)))
    head = require_plan_head(output)
    units = caption_units(output, head.settings)
    table = units.read(0)
    broken = table.to_pylist()
    broken[0]["long"], broken[1]["facts"] = None, '{"people": "many"}'
    rows = table.from_pylist(broken, schema=table.schema)
    units.commit(0, head.digest, "other", rows, heal=True)
    problems = " ".join(verify_run(units, build_checks(head.settings)).problems)
    assert "ok fields without a text: long" in problems
    assert "answers that break the schema of facts" in problems


def test_exports_carry_all_fields(images: Path, tmp_path: Path) -> None:
    output = str(tmp_path / "out")
    make_run(build_job(images, tmp_path / "out", fields=write_fields(tmp_path, THREE)))
    rows = {row["image_id"]: row for row in check_rows(tmp_path / "out")}
    export_run(output, f"{tmp_path}/a.json")
    for record in json.loads((tmp_path / "a.json").read_text()):
        row = rows[record["id"]]
        assert record["conversations"][1]["value"] == row["tags"]
        assert record["fields"] == {name: row[name] for name in ("tags", "facts", "long")}
    export_run(output, f"{tmp_path}/a.parquet")
    found = pq.read_table(tmp_path / "a.parquet").to_pylist()
    assert {row["image_id"]: row for row in found} == rows
    export_run(output, f"{tmp_path}/a.jsonl")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["long"] for line in lines] == [rows[line["image_id"]]["long"] for line in lines]
    assert lines[0]["facts_values"] == rows[lines[0]["image_id"]]["facts_values"]


def test_tars_and_folders_carry_all_fields(images: Path, tmp_path: Path) -> None:
    import tarfile

    output = str(tmp_path / "out")
    make_run(build_job(images, tmp_path / "out", fields=write_fields(tmp_path, THREE)))
    rows = {row["image_id"]: row for row in check_rows(tmp_path / "out")}
    export_run(output, f"{tmp_path}/a.tar")
    export_run(output, f"{tmp_path}/shards/", with_images=True)
    for name, key in (("a.tar", "0.jpg"), ("shards/00000.tar", "0")):
        with tarfile.open(tmp_path / name) as tar:
            texts = {one.name: tar.extractfile(one).read() for one in tar}  # type: ignore[union-attr]
        row = rows["0.jpg"]
        assert texts[f"{key}.txt"].decode() == row["tags"]
        assert texts[f"{key}.long.txt"].decode() == row["long"]
        about = json.loads(texts[f"{key}.json"])
        assert about["facts_values"] == row["facts_values"]
        assert about["fields"] == json.loads(row["fields"])
    export_run(output, f"{tmp_path}/files/", with_images=True, form="files")
    metadata = json.loads((tmp_path / "files" / "meta_cap.json").read_text())
    assert metadata["0"]["long"] == rows["0.jpg"]["long"]
    assert metadata["0"]["caption"] == rows["0.jpg"]["caption"]


class Scripted:
    """Answers by the question; remembers what it was asked."""

    version = "scripted"

    def __init__(self, answers: dict[str, str | None]) -> None:
        self._answers = answers
        self.asked: list[str] = []

    async def generate(self, request: Request, sampling: SamplingConfig, _: Any = None) -> Any:
        self.asked.append(request.prompt)
        await asyncio.sleep(0)
        text = self._answers[request.prompt.split()[0]]
        if text is None:
            return fail("engine_refused:test", "Because.")
        return Generation(text, "stop", 10, 5)


def _ask(
    folder: Path, fields: list[dict[str, Any]], answers: dict[str, str | None], texts: int = 1
) -> tuple[ImageEnding, Scripted]:
    found = _read(folder, fields)
    planned = {"image_id": "a", "source": "s", "payload": None}
    names = [field.name for field in found]
    questions = [choose_question(f.prompts, planned, names[:at]) for at, f in enumerate(found)]
    engine = Scripted(answers)
    request = Request("a", "sha", (np.zeros((2, 2, 3), np.uint8),), "")
    return asyncio.run(ask_image(found, questions, request, engine, texts)), engine


PROSE = "A cat sits on a red mat."


def test_independent_fields_are_asked_together_and_dependent_ones_after_them(
    tmp_path: Path,
) -> None:
    fields = [
        {"name": "one", "prompt": "one"},
        {"name": "two", "prompt": "two of {one} and {three}"},
        {"name": "four", "prompt": "four"},
    ]
    fields.insert(1, {"name": "three", "prompt": "three"})
    answers: dict[str, str | None] = dict.fromkeys(("one", "two", "three", "four"), PROSE)
    ending, engine = _ask(tmp_path, fields, answers)
    assert engine.asked == ["one", "three", "four", f"two of {PROSE} and {PROSE}"]
    assert (ending.status, ending.reason, ending.attempts) == ("ok", None, 4)


@pytest.mark.parametrize(
    ("answers", "status", "reason", "kept"),
    [
        ({"a": PROSE, "b": "no", "c": PROSE}, "rejected", "b:too_short", "ac"),
        ({"a": PROSE, "b": None, "c": PROSE}, "error", "b:engine_refused:test", "ac"),
        ({"a": "no", "b": None, "c": PROSE}, "error", "b:engine_refused:test", "c"),
        ({"a": PROSE, "b": PROSE, "c": "no"}, "rejected", "c:too_short", "ab"),
    ],
)
def test_a_failed_field_names_itself_and_the_others_keep_their_texts(
    tmp_path: Path, answers: dict[str, str | None], status: str, reason: str, kept: str
) -> None:
    fields = [{"name": name, "prompt": f"{name} please"} for name in "abc"]
    ending, _ = _ask(tmp_path, fields, answers)
    assert (ending.status, ending.reason) == (status, reason)
    named = dict(zip("abc", ending.answers, strict=True))
    assert "".join(name for name, one in named.items() if one.text) == kept


def test_a_field_is_not_asked_without_the_one_that_it_needs(tmp_path: Path) -> None:
    fields = [{"name": "a", "prompt": "a"}, {"name": "b", "prompt": "b of {a}"}]
    ending, engine = _ask(tmp_path, fields, {"a": "no", "b": PROSE})
    assert (ending.status, ending.reason) == ("rejected", "a:too_short")
    assert ending.answers[1].end.reason == "needs:a"
    assert set(engine.asked) == {"a"}


def test_what_failed_stands_in_the_row(images: Path, tmp_path: Path) -> None:
    fields = [{"name": "a", "prompt": "a"}, {"name": "b", "prompt": "b"}]
    job = build_job(images, tmp_path / "out", fields=write_fields(tmp_path, fields))
    make_run(job, engine=Scripted({"a": PROSE, "b": "no"}))
    [row, *_] = check_rows(tmp_path / "out")
    assert (row["status"], row["reason"]) == ("rejected", "b:too_short")
    assert (row["a"], row["b"], row["caption"]) == (PROSE, None, PROSE)
    account = json.loads(row["fields"])["b"]
    assert account["rejected_text"] == "no"
    assert account["attempts"] == 4
    assert row["attempts"] == 5


def test_each_field_draws_further_texts_by_its_own_rules(tmp_path: Path) -> None:
    fields = [{"name": "a", "prompt": "a"}, {"name": "b", "prompt": "b", "append": "!"}]
    ending, engine = _ask(tmp_path, fields, {"a": PROSE, "b": PROSE}, texts=3)
    assert [one.end.more for one in ending.answers] == [(PROSE,) * 2, (f"{PROSE}!",) * 2]
    assert len(engine.asked) == 6


def test_an_engine_that_fails_as_a_whole_ends_every_field(tmp_path: Path) -> None:
    fields = [{"name": "a", "prompt": "a"}, {"name": "b", "prompt": "unknown"}]
    with pytest.raises(KeyError):
        _ask(tmp_path, fields, {"a": PROSE})


def test_a_field_changes_the_jobs_rules_in_part(tmp_path: Path) -> None:
    [short, plain] = _read(
        tmp_path,
        [
            {
                "name": "short",
                "prompt": "?",
                "sampling": {"max_tokens": 9},
                "gate": {"min_words": 1, "skip": ["looping"]},
            },
            {"name": "plain", "prompt": "?"},
        ],
    )
    assert (short.sampling.max_tokens, plain.sampling.max_tokens) == (9, 512)
    assert short.judge.judge("One.", "stop", "") is None
    assert plain.judge.judge("One.", "stop", "") == "too_short"
    assert [one.max_tokens for one in short.samplings] == [9] * 4


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({}, "found dict, needed a list of fields"),
        ([], "holds no field"),
        (["tags"], "entry 1: found 'tags', needed an object"),
        ([{"name": "a"}], "entry 1: needed a prompt or a prompt_name, and not both"),
        ([{"name": "a", "prompt": "?", "prompt_name": "tags"}], "and not both"),
        ([{"name": "a", "prompt": " "}], "found an empty text"),
        ([{"name": "a", "prompt": "?", "promtp": "?"}], "found promtp, allowed name, prompt"),
        ([{"name": "a", "prompt": "?", "gate": 3}], "entry 1: gate: found 3"),
        ([{"name": "a", "prompt": "?", "gate": {"minwords": 1}}], "entry 1: gate: minwords: found"),
        ([{"name": "a", "prompt": "?", "sampling": {"top_p": 2}}], "sampling: top_p: found 2"),
        ([{"name": "a", "prompt_name": "tag"}], "found 'tag', allowed paper, detailed, short, tag"),
        ([{"name": "A b", "prompt": "?"}], "found the name 'A b', allowed small letters"),
        ([{"name": "status", "prompt": "?"}], "found the name status, which another column has"),
        ([{"name": "fields", "prompt": "?"}], "found the name fields, which another"),
        ([{"name": "source", "prompt": "?"}], "found the name source, which another"),
        ([{"name": "a", "prompt": "?"}] * 2, "found the name a, which another column has"),
        ([{"name": "a", "prompt": "of {a}"}], "the prompt of a uses itself"),
        (
            [{"name": "a", "prompt": "{b}"}, {"name": "b", "prompt": "{a}"}],
            "the prompt of a uses b, which comes later",
        ),
        ([{"name": "a", "prompt": "?", "schema": {"type": "objekt"}}], "is no JSON schema"),
        ([{"name": "a", "prompt": "?", "schema": "none.json"}], "none.json is no readable"),
        (
            [{"name": "a", "prompt": "?", "schema": {"$ref": "http://x/y"}}],
            r"found \$ref 'http://x/y', allowed references into the schema itself",
        ),
        (
            [{"name": "a", "prompt": "?", "schema": {}, "append": "x"}],
            "found a schema and append, allowed one of them",
        ),
    ],
)
def test_a_file_that_is_no_list_of_fields_is_refused_in_a_sentence(
    tmp_path: Path, fields: Any, sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence) as refusal:
        _read(tmp_path, fields)
    assert "\n" not in str(refusal.value)


def test_no_file_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no readable text file"):
        read_fields(f"{tmp_path}/none.json", SamplingConfig(), Gate(), Ladder())
    (tmp_path / "bad.json").write_text("[{]")
    with pytest.raises(ConfigError, match="is no JSON"):
        read_fields(f"{tmp_path}/bad.json", SamplingConfig(), Gate(), Ladder())


def test_a_schema_may_lie_beside_the_file_of_fields(tmp_path: Path) -> None:
    (tmp_path / "facts.json").write_text(json.dumps(FACTS))
    [field] = _read(tmp_path, [{"name": "a", "prompt": "?", "schema": "facts.json"}])
    assert field.schema
    assert json.loads(field.schema) == FACTS


def test_fields_identify_a_run_by_what_they_say_and_not_by_their_file(
    images: Path, tmp_path: Path
) -> None:
    job = build_job(images, tmp_path / "out", fields=write_fields(tmp_path, THREE))
    old = json.loads(json.dumps(check_job(job).settings))
    Path(tmp_path, "fields.json").rename(tmp_path / "moved.json")
    moved = job.replace(fields=f"{tmp_path}/moved.json")
    refuse_other_settings("out", old, check_job(moved).settings)
    other = job.replace(fields=write_fields(tmp_path, THREE[:2]))
    with pytest.raises(ConfigError, match="was made with fields"):
        refuse_other_settings("out", old, check_job(other).settings)


def test_a_run_of_the_version_before_may_be_resumed(images: Path, tmp_path: Path) -> None:
    job = build_job(images, tmp_path / "out")
    old = json.loads(json.dumps(check_job(job).settings))
    for name in ("fields", "prefill", "prepend", "append", "cut_prefix_words"):
        del old[name]
    for name in ("skip", "allow_json"):
        del old["gate"][name]
    refuse_other_settings("out", old, check_job(job).settings)
    skipping = job.replace(gate=Gate(skip=("garbled",)))
    with pytest.raises(ConfigError, match="was made with gate"):
        refuse_other_settings("out", old, check_job(skipping).settings)


def test_equal_images_are_equal_only_to_the_same_fields(images: Path, tmp_path: Path) -> None:
    from s4v_core.captioning.caption_pass import make_task

    keys = []
    for fields in (THREE, THREE, THREE[:2]):
        path = write_fields(tmp_path, fields)
        task = make_task(check_job(build_job(images, tmp_path / "o", fields=path, dedupe="exact")))
        planned = {"image_id": "0", "uri": "0", "source": "s", "payload": None}
        keys.append(task.prepare(planned, (images / "0.jpg").read_bytes()).about.twin_key)
    assert keys[0] == keys[1] != keys[2]
