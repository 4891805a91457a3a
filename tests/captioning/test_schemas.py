"""JSON by a schema: refusals, verdicts, typed columns, and engine fake's answers."""

import json
from pathlib import Path
from typing import Any

import jsonschema
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core.captioning.checks import check_model
from s4v_core.captioning.row_checks import build_checks
from s4v_core.captioning.schema_gate import SchemaGate, strip_fence
from s4v_core.engines.answer_schemas import check_answer_schema
from s4v_core.engines.fake_answers import build_example
from s4v_core.errors import ConfigError
from s4v_core.records.captions import caption_units
from s4v_core.records.schema_columns import build_values_type, pick_values
from s4v_core.runs.verification import verify_run
from tests.captioning.fields_run import FACTS, build_job, make_run
from tests.conftest import photo
from tests.flow.oracle import check_rows

TREE = {
    "$defs": {
        "node": {
            "type": "object",
            "properties": {
                "name": {"type": "string", "maxLength": 8, "minLength": 3},
                "children": {"type": "array", "items": {"$ref": "#/$defs/node"}, "minItems": 0},
            },
            "required": ["name"],
        }
    },
    "$ref": "#/$defs/node",
}
OTHERS: list[dict[str, Any]] = [
    {"type": "array", "items": {"type": "number", "exclusiveMinimum": 2}, "minItems": 3},
    {"anyOf": [{"type": "null"}, {"type": "string"}]},
    {"allOf": [{"type": "object"}, {"properties": {"a": {"const": 3}}, "required": ["a"]}]},
    {"type": ["integer", "null"], "maximum": -5},
    {"type": "object", "properties": {"x": {"enum": [1, "two"]}, "y": {"type": "boolean"}}},
]


def test_a_schema_for_the_caption_gives_its_text_and_its_values(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for number in range(4):
        (tmp_path / "images" / f"{number}.jpg").write_bytes(photo(number, (64, 48)))
    (tmp_path / "schema.json").write_text(json.dumps(FACTS))
    job = build_job(
        tmp_path / "images", tmp_path / "out", json_schema=str(tmp_path / "schema.json")
    )
    checked = make_run(job)
    rows = check_rows(tmp_path / "out")
    for row in rows:
        found = json.loads(row["caption"])
        jsonschema.validate(found, FACTS)
        assert row["caption_values"]["colours"] == found["colours"]
        assert row["reason"] is None
    units = caption_units(str(tmp_path / "out"), checked.settings)
    assert verify_run(units, build_checks(checked.settings)).is_sound
    table = pq.read_table(tmp_path / "out" / "captions")
    assert pa.types.is_int64(table.schema.field("caption_values").type.field("people").type)


@pytest.mark.parametrize(
    ("text", "finish", "reason"),
    [
        ('{"a": 1}', "stop", None),
        ('{"a": 1}', "length", None),
        ('```json\n{"a": 1}\n```', "stop", None),
        ('{"a": ', "length", "truncated_caption"),
        ('{"a": ', "stop", "no_json"),
        ("A cat sits on a mat.", "stop", "no_json"),
        ('{"a": NaN}', "stop", "no_json"),
        (" \n", "stop", "empty"),
        ('{"a": "1"}', "stop", "schema:type"),
        ("{}", "stop", "schema:required"),
        ('{"a": 1, "b": 2}', "stop", "schema:additionalProperties"),
    ],
)
def test_the_schema_decides(text: str, finish: str, reason: str | None) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    assert SchemaGate(json.dumps(schema)).judge(text, finish) == reason


def test_a_fence_is_no_part_of_the_answer() -> None:
    assert strip_fence('```json\n{"a": 1}\n```\n') == '{"a": 1}'
    assert strip_fence("```") == "```"


@pytest.mark.parametrize("schema", [FACTS, TREE, *OTHERS])
def test_engine_fake_follows_schemas(schema: dict[str, Any]) -> None:
    for text in ("A fake caption.", "", "x" * 70):
        jsonschema.validate(build_example(schema, text), schema)


def test_values_have_the_types_of_the_schema() -> None:
    kind = build_values_type(FACTS)
    assert kind is not None
    assert [str(field.type) for field in kind] == [
        *("string", "int64", "bool", "list<item: string>", "string", "string"),
    ]
    text = '{"subject": "a", "people": 2.0, "is_photo": true, "colours": ["red"], "place": {}}'
    values = pick_values(FACTS, text)
    assert values is not None
    assert values["people"] == 2
    assert (values["mood"], values["place"]) == (None, "{}")
    assert pick_values(FACTS, None) is pick_values(FACTS, "no json") is None
    big = pick_values(FACTS, json.dumps({"people": 2**70}))
    assert big is not None
    assert big["people"] is None
    assert build_values_type({"type": "array"}) is None


@pytest.mark.parametrize(
    ("engine", "schema", "sentence"),
    [
        ("transformers", {}, "engine transformers cannot bind an answer to a schema"),
        ("vllm", {"properties": {"a": {"multipleOf": 3}}}, "found multipleOf, which engine vllm"),
        ("vllm", {"items": [{"uniqueItems": True}]}, "found uniqueItems, which engine vllm"),
    ],
)
def test_an_engine_that_cannot_is_refused(
    engine: str, schema: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_answer_schema(engine, json.dumps(schema))


def test_names_of_properties_are_no_keywords() -> None:
    for schema in (FACTS, TREE, {"properties": {"not": {}, "if": {"enum": [{"contains": 1}]}}}):
        check_answer_schema("vllm", json.dumps(schema))


def test_a_job_with_a_schema_refuses_engine_transformers(checkpoint: Path, tmp_path: Path) -> None:
    (tmp_path / "schema.json").write_text(json.dumps(FACTS))
    job = build_job(tmp_path, tmp_path / "out", json_schema=str(tmp_path / "schema.json"))
    job = job.replace(engine="transformers", model=str(checkpoint))
    with pytest.raises(ConfigError, match="engine transformers cannot"):
        check_model(job)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"json_schema": "s.json", "prefill": "{"}, "found --json-schema and --prefill, allowed"),
        ({"fields": "f.json", "prompt": "?"}, "found --fields and --prompt, allowed one of them"),
        ({"fields": "f.json", "json_schema": "s"}, "found --fields and --json-schema"),
        ({"fields": "f.json", "append": "x"}, "found --fields and --append"),
        ({"prompt": "?", "prompt_name": "tags"}, "found --prompt and --prompt-name"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(
    tmp_path: Path, changes: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        build_job(tmp_path, tmp_path / "out", **changes)
