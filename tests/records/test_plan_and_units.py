"""Plans cut rows into units; units are written once and carry an account of their rows."""

from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core import storage
from s4v_core.errors import InputError, SchemaError, StorageError
from s4v_core.inputs.indexing import INDEX_SCHEMA
from s4v_core.inputs.unique_ids import number_repeated_ids
from s4v_core.records import plan
from s4v_core.records.captions import CAPTIONS, RESULT_SCHEMA, caption_units
from s4v_core.records.schemas import table_of

DIGEST = "d" * 64


def _index_rows(name: str, count: int) -> pa.Table:
    rows = [
        dict.fromkeys(INDEX_SCHEMA.names)
        | {"image_id": f"{name}/{n}", "uri": name, "container": "tar", "source": "s"}
        for n in range(count)
    ]
    return table_of(rows, INDEX_SCHEMA, name)


def _build_plan(
    tables: list[pa.Table], accounts: list[dict[str, Any]], settings: dict[str, Any], listing: str
) -> tuple[plan.PlanHead, pa.Table]:
    kind, key = CAPTIONS.folder, CAPTIONS.key
    return plan.build_plan(tables, accounts, settings, listing, kind=kind, key=key)


def _build_results(count: int, status: str = "ok") -> pa.Table:
    row: dict[str, Any] = dict.fromkeys(RESULT_SCHEMA.names) | {
        "uri": "u",
        "source": "s",
        "status": status,
        "attempts": 1,
        "output_tokens": 3,
        "prompt": "p",
        "model": "m",
        "model_revision": "r",
        "engine": "e",
        "sampling": "{}",
        "run_id": "run",
        "created_at": datetime.now(UTC),
    }
    return table_of([row | {"image_id": str(n)} for n in range(count)], RESULT_SCHEMA, "test")


def test_units_hold_neighbours_of_one_shard_and_every_image_once() -> None:
    head, table = _build_plan([_index_rows("a", 600), _index_rows("b", 10)], [], {}, "x")
    assert head.unit_rows == [256, 256, 88, 10]
    assert table["image_id"].to_pylist() == [f"a/{n}" for n in range(600)] + [
        f"b/{n}" for n in range(10)
    ]


def test_ids_that_clash_get_numbers_and_both_stay() -> None:
    tables, renamed = number_repeated_ids([_index_rows("a", 2), _index_rows("a", 2)])
    _, table = _build_plan(tables, [], {}, "x")
    assert table["image_id"].to_pylist() == ["a/0", "a/1", "a/0#2", "a/1#2"]
    assert renamed == 2


def test_a_key_that_occurs_twice_is_refused() -> None:
    with pytest.raises(InputError, match="a/0: this image_id occurs twice"):
        _build_plan([_index_rows("a", 2), _index_rows("a", 2)], [], {}, "x")


def test_a_limit_takes_the_first_images() -> None:
    head, table = _build_plan(
        plan.take_first([_index_rows("a", 3), _index_rows("b", 9)], 5), [], {}, "x"
    )
    assert table["image_id"].to_pylist() == ["a/0", "a/1", "a/2", "b/0", "b/1"]
    assert head.rows == 5


def test_two_first_starts_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        head, table = _build_plan([_index_rows("a", 300)], [{"uri": "a"}], {"model": "m"}, "x")
        plan.write_plan(str(tmp_path / name), head, table)
    first, second = (storage.read(plan.plan_uri(str(tmp_path / n))) for n in ("one", "two"))
    assert first == second


def test_a_plan_is_written_once_and_read_unit_by_unit(tmp_path: Path) -> None:
    output = str(tmp_path)
    head, table = _build_plan([_index_rows("a", 300)], [], {"model": "m"}, "x")
    assert plan.write_plan(output, head, table) == head
    other, rows = _build_plan([_index_rows("b", 3)], [], {"model": "n"}, "x")
    assert plan.write_plan(output, other, rows) == head
    assert plan.read_plan_head(output) == head
    assert plan.read_planned_unit(output, 1)["image_id"].to_pylist() == [
        f"a/{n}" for n in range(256, 300)
    ]


def test_the_digest_changes_with_settings_and_listing() -> None:
    def digest(settings: dict[str, Any], listing: str) -> str:
        return _build_plan([_index_rows("a", 3)], [], settings, listing)[0].digest

    assert len({digest({"m": 1}, "x"), digest({"m": 2}, "x"), digest({"m": 1}, "y")}) == 3


def test_the_second_writer_of_a_unit_finds_it_done(tmp_path: Path) -> None:
    output = str(tmp_path)
    account, wrote = caption_units(output).commit(7, DIGEST, "one", _build_results(5))
    assert wrote
    assert (account.rows, account.ok, account.sums) == (5, 5, {"output_tokens": 15, "attempts": 5})
    again, wrote = caption_units(output).commit(7, DIGEST, "two", _build_results(5))
    assert not wrote
    assert again.run_id == "one"
    assert caption_units(output).list_done() == {7}


def test_a_file_of_another_plan_is_not_overwritten(tmp_path: Path) -> None:
    output = str(tmp_path)
    caption_units(output).commit(0, DIGEST, "one", _build_results(5))
    before = storage.read(caption_units(output).uri(0))
    with pytest.raises(StorageError, match="another plan"):
        caption_units(output).commit(0, "e" * 64, "two", _build_results(5))
    assert storage.read(caption_units(output).uri(0)) == before


def test_a_file_that_is_no_result_is_reported(tmp_path: Path) -> None:
    output = str(tmp_path)
    storage.create(caption_units(output).uri(0), b"half a file")
    with pytest.raises(StorageError, match="no complete Parquet"):
        caption_units(output).commit(0, DIGEST, "one", _build_results(5))


def test_a_missing_unit_is_a_storage_error(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="no complete Parquet"):
        caption_units(str(tmp_path)).read_account(0)


def test_an_image_id_that_looks_like_an_account_is_not_read_as_one(tmp_path: Path) -> None:
    output = str(tmp_path)
    rows = _build_results(5)
    forged = 's4v.unit\x18\x7f{"unit": 0, "plan": "p", "run_id": "forged", "rows": 9}\0'
    names = pa.array([f"{forged}{n}" for n in range(5)])
    rows = rows.set_column(rows.schema.get_field_index("image_id"), rows.schema.field(0), names)
    account, _ = caption_units(output).commit(0, DIGEST, "one", rows)
    assert forged.encode() in storage.read(caption_units(output).uri(0))
    assert caption_units(output).read_account(0) == account


def test_accounts_in_footers_of_other_writers_are_read(tmp_path: Path) -> None:
    output = str(tmp_path)
    account, _ = caption_units(output).commit(0, DIGEST, "one", _build_results(5))
    uri = caption_units(output).uri(0)
    about = {"s4v.unit": account.to_json(), "z.later": "{}"}
    pq.write_table(caption_units(output).read(0).replace_schema_metadata(about), uri)
    assert caption_units(output).read_account(0) == account


def test_healing_replaces_a_unit_in_one_write(tmp_path: Path) -> None:
    output = str(tmp_path)
    caption_units(output).commit(0, DIGEST, "one", _build_results(5, "error"))
    caption_units(output).commit(0, DIGEST, "two", _build_results(5), heal=True)
    assert caption_units(output).read_account(0).ok == 5


def test_rows_with_other_columns_are_refused_with_both_sides() -> None:
    row = _build_results(1).to_pylist()[0]
    with pytest.raises(SchemaError, match="captoin"):
        table_of([row | {"captoin": "x"}], RESULT_SCHEMA, "test")
    with pytest.raises(SchemaError, match="image_id"):
        table_of([row | {"image_id": None}], RESULT_SCHEMA, "test")
