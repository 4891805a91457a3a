"""Plans cut rows into units; units are written once and carry an account of their rows."""

import time
from dataclasses import replace
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
from s4v_core.records.growth import Growth, PlannedRows
from s4v_core.records.plan_writing import build_head, take_first, write_part, write_plan
from s4v_core.records.planned_rows import (
    find_outdated_keys,
    read_planned_keys,
    read_planned_unit,
)
from s4v_core.records.row_spool import RowSpool
from s4v_core.records.schemas import table_of
from s4v_core.records.units import UnitFolder

DIGEST = "d" * 64


def _index_rows(name: str, count: int) -> pa.Table:
    rows = [
        dict.fromkeys(INDEX_SCHEMA.names)
        | {"image_id": f"{name}/{n}", "uri": name, "container": "tar", "source": "s"}
        for n in range(count)
    ]
    return table_of(rows, INDEX_SCHEMA, name)


def _build_head(
    tables: list[pa.Table], settings: dict[str, Any], listing: str = "x"
) -> plan.PlanHead:
    counts, kind, key = [table.num_rows for table in tables], CAPTIONS.folder, CAPTIONS.key
    return build_head(counts, [{"uri": "a"}], settings, listing, kind=kind, key=key)


def _write_plan(
    output: Path, tables: list[pa.Table], settings: dict[str, Any] | None = None
) -> plan.PlanHead:
    return write_plan(str(output), _build_head(tables, settings or {}), tables)


def _read_ids(output: Path) -> list[str]:
    return [key for unit in read_planned_keys(str(output)) for key in unit]


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


def test_units_hold_neighbours_of_one_shard_and_every_image_once(tmp_path: Path) -> None:
    head = _write_plan(tmp_path, [_index_rows("a", 600), _index_rows("b", 10)])
    assert head.unit_rows == [256, 256, 88, 10]
    assert _read_ids(tmp_path) == [f"a/{n}" for n in range(600)] + [f"b/{n}" for n in range(10)]


def test_tables_may_be_cut_anywhere(tmp_path: Path) -> None:
    whole = _index_rows("a", 600)
    tables = [whole.slice(0, 5), whole.slice(5, 300), whole.slice(305, 0), whole.slice(305)]
    head = write_plan(str(tmp_path), _build_head([whole], {}), tables)
    assert head.unit_rows == [256, 256, 88]
    assert _read_ids(tmp_path) == whole["image_id"].to_pylist()


def test_ids_that_clash_get_numbers_and_both_stay() -> None:
    tables, renamed = number_repeated_ids([_index_rows("a", 2), _index_rows("a", 2)])
    ids = [name for table in tables for name in table["image_id"].to_pylist()]
    assert ids == ["a/0", "a/1", "a/0#2", "a/1#2"]
    assert renamed == 2


def test_files_whose_ids_clash_get_the_names_of_their_folders() -> None:
    place = dict.fromkeys(INDEX_SCHEMA.names) | {"container": "file"}
    rows = [
        place | {"image_id": name, "uri": uri}
        for name, uri in (
            ("a.jpg", "/d/v1/a.jpg"),
            ("a.jpg", "/d/v2/a.jpg"),
            ("v2/a.jpg", "/e/v2/a.jpg"),
            ("a.jpg", "/d/v2/a.jpg"),
            ("a.jpg#2", "/f/a.jpg#2"),
        )
    ]
    [table], renamed = number_repeated_ids([table_of(rows, INDEX_SCHEMA, "test")])
    ids = table["image_id"].to_pylist()
    assert ids == ["a.jpg", "d/v2/a.jpg", "v2/a.jpg", "a.jpg#3", "a.jpg#2"]
    assert renamed == 2


def test_thousands_of_equal_ids_take_no_long_time() -> None:
    rows = _index_rows("a", 1).take([0] * 20_000)
    started = time.monotonic()
    [table], renamed = number_repeated_ids([rows])
    assert (table["image_id"][-1].as_py(), renamed) == ("a/0#20000", 19_999)
    assert time.monotonic() - started < 5


def test_a_key_that_occurs_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a/0: this image_id occurs twice"):
        _write_plan(tmp_path, [_index_rows("a", 2), _index_rows("a", 2)])
    assert not list(tmp_path.iterdir())


def test_a_limit_takes_the_first_images() -> None:
    tables = take_first([_index_rows("a", 3), _index_rows("b", 9), _index_rows("c", 1)], 5)
    ids = [name for table in tables for name in table["image_id"].to_pylist()]
    assert ids == ["a/0", "a/1", "a/2", "b/0", "b/1"]


def test_two_first_starts_write_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        _write_plan(tmp_path / name, [_index_rows("a", 300)], {"model": "m"})
    first, second = (storage.read(plan.part_uri(str(tmp_path / n), 1)) for n in ("one", "two"))
    assert first == second


def test_a_plan_is_written_once_and_read_unit_by_unit(tmp_path: Path) -> None:
    head = _write_plan(tmp_path, [_index_rows("a", 300)], {"model": "m"})
    assert head.digest == _build_head([_index_rows("a", 300)], {"model": "m"}).digest
    assert _write_plan(tmp_path, [_index_rows("b", 3)], {"model": "n"}) == head
    assert plan.read_plan_head(str(tmp_path)) == head
    assert read_planned_unit(str(tmp_path), 1)["image_id"].to_pylist() == [
        f"a/{n}" for n in range(256, 300)
    ]


def test_the_digest_changes_with_settings_and_listing() -> None:
    def digest(settings: dict[str, Any], listing: str) -> str:
        return _build_head([_index_rows("a", 3)], settings, listing).digest

    assert len({digest({"m": 1}, "x"), digest({"m": 2}, "x"), digest({"m": 1}, "y")}) == 3


@pytest.mark.parametrize("is_parquet", [True, False])
def test_a_foreign_file_with_the_name_of_a_plan_is_one_sentence(
    tmp_path: Path, is_parquet: bool
) -> None:
    path = tmp_path / "plan.parquet"
    path.write_bytes(b"my plans for the summer")
    if is_parquet:
        pq.write_table(pa.table({"day": [1]}), path)
    with pytest.raises(InputError, match="is not the plan of a run"):
        plan.read_plan_head(str(tmp_path))
    assert not plan.is_plan(str(path))


# Inputs that grow.


def _files(*versions: tuple[str, str]) -> pa.Table:
    """Rows of loose files, from name and version."""
    rows = [
        dict.fromkeys(INDEX_SCHEMA.names)
        | {"image_id": name, "uri": f"/in/{name}", "container": "file", "etag": version}
        for name, version in versions
    ]
    return table_of(rows, INDEX_SCHEMA, "test")


def _grow(output: Path, *versions: tuple[str, str]) -> tuple[plan.PlanHead, Growth]:
    head = plan.require_plan_head(str(output))
    with RowSpool(INDEX_SCHEMA, 1) as new:
        growth = PlannedRows(head).compare([(0, _files(*versions))], new)
        grown = build_head(
            growth.new_rows, [], head.settings, str(versions), kind=head.kind, key=head.key
        )
        tables = [table for _, table in new.read()]
        return write_part(str(output), head, grown, growth.renewed, tables, growth.removed), growth


def _versions(output: Path) -> dict[str, str]:
    head = plan.require_plan_head(str(output))
    tables = [read_planned_unit(str(output), unit) for unit in head.units]
    rows = [row for table in tables for row in table.to_pylist()]
    assert len({row["image_id"] for row in rows}) == len(rows)
    return {row["image_id"]: row["etag"] for row in rows}


def _find_outdated(output: Path, head: plan.PlanHead, digest: str) -> set[str] | None:
    """The outdated keys in a file of unit 0 that carries this digest."""
    units = caption_units(str(output))
    units.commit(0, digest, "run", _build_results(256), heal=True)
    return find_outdated_keys(units, head.parts, 0)


def test_a_part_holds_what_is_new_and_what_was_replaced_and_counts_what_is_gone(
    tmp_path: Path,
) -> None:
    first = [(f"{n:03d}", "1") for n in range(300)]
    _write_plan(tmp_path, [_files(*first)])
    second = [(n, "2" if n == "007" else v) for n, v in first if n != "299"] + [("new", "1")]
    head, growth = _grow(tmp_path, *second)
    assert (growth.new_rows, sorted(growth.renewed), growth.removed) == ([1], [0], 1)
    assert growth.renewed[0]["image_id"].to_pylist() == ["007"]
    assert (head.unit_rows, head.removed) == ([256, 44, 1], 1)
    assert _versions(tmp_path) == dict(first) | dict(second)
    assert _read_ids(tmp_path) == [*(n for n, _ in first), "new"]
    digests = [head.find_digest(unit) for unit in head.units]
    assert digests[0] == digests[2] != digests[1] == head.digest
    assert _find_outdated(tmp_path, head, head.digest) == {"007"}
    assert _find_outdated(tmp_path, head, digests[0]) == set()

    third = [(n, "3" if n in ("008", "new") else v) for n, v in second]
    head, growth = _grow(tmp_path, *third)
    assert (growth.new_rows, sorted(growth.renewed), growth.removed) == ([0], [0, 2], 1)
    assert _versions(tmp_path) == dict(first) | dict(third)
    assert _find_outdated(tmp_path, head, head.digest) == {"007", "008"}
    assert _find_outdated(tmp_path, head, digests[0]) == {"008"}
    head, growth = _grow(tmp_path, *third)
    assert (growth.new_rows, growth.renewed, growth.removed) == ([0], {}, 1)


def test_two_runs_that_grow_at_once_add_one_part(tmp_path: Path) -> None:
    before = _write_plan(tmp_path, [_files(("a", "1"))])
    heads = []
    for name in ("b", "c"):
        with RowSpool(INDEX_SCHEMA, 1) as new:
            growth = PlannedRows(before).compare([(0, _files(("a", "1"), (name, "1")))], new)
            grown = build_head(growth.new_rows, [], {}, name, kind="captions", key="image_id")
            tables = [table for _, table in new.read()]
            heads.append(write_part(str(tmp_path), before, grown, {}, tables, 0))
    assert heads[0] == heads[1]
    assert _read_ids(tmp_path) == ["a", "b"]
    assert heads[1].listing_digest == "b"  # so the loser knows that it must compare again


def _members(uri: str, *members: tuple[str, str], etag: str = "1", **more: Any) -> pa.Table:
    """Rows of an archive, from id and member."""
    rows = [
        dict.fromkeys(INDEX_SCHEMA.names)
        | {"image_id": name, "uri": uri, "container": "tar", "etag": etag}
        | {"member": member or None, "offset": 512 * at, "length": 9}
        | more
        for at, (name, member) in enumerate(members)
    ]
    return table_of(rows, INDEX_SCHEMA, "test")


@pytest.mark.parametrize("container", ["tar", "parquet"])
def test_rows_of_shards_are_known_by_their_own_names_whatever_ids_they_got(
    tmp_path: Path, container: str
) -> None:
    old = _members("s", ("0/a#2", "a"), ("0/b", "b"), ("0/c", "c"), container=container)
    head = _write_plan(tmp_path, [old])
    again = [("v2/0/new", "new"), ("v2/0/b", "b"), ("v2/0/a", "a")]
    with RowSpool(INDEX_SCHEMA, 1) as new:
        rows = _members("s", *again, etag="2", container=container)
        growth = PlannedRows(head).compare([(0, rows)], new)
        assert [t["image_id"].to_pylist() for _, t in new.read()] == [["v2/0/new"]]
    assert growth.removed == 1
    assert sorted(growth.renewed[0]["image_id"].to_pylist()) == ["0/a#2", "0/b"]


def test_plans_that_name_no_members_are_compared_by_their_ids(tmp_path: Path) -> None:
    old = _members("s", ("0/a", ""), ("0/x.y#3", ""), ("0/b", ""))
    counts, kind, key = [3], CAPTIONS.folder, CAPTIONS.key
    head = build_head(counts, [{"uri": "s", "name": "0"}], {}, "x", kind=kind, key=key)
    head = write_plan(str(tmp_path), head, [old])
    with RowSpool(INDEX_SCHEMA, 1) as new:
        rows = _members("s", ("0/a", "a.jpg"), ("0/x.y#9", "x.y.jpg"), ("0/d", "d.jpg"))
        growth = PlannedRows(head).compare([(0, rows)], new)
    assert (growth.new_rows, growth.removed, growth.renewed) == ([1], 1, {})


def test_a_file_that_two_records_name_is_not_new_each_time(tmp_path: Path) -> None:
    rows = _files(("a", "1"), ("b", "1"))
    twice = rows.set_column(
        rows.schema.get_field_index("uri"), "uri", pa.array(["/in/a", "/in/a"])
    ).cast(INDEX_SCHEMA)
    head = _write_plan(tmp_path, [twice])
    for expected in ([0], [0]):
        with RowSpool(INDEX_SCHEMA, 1) as new:
            growth = PlannedRows(head).compare([(0, twice)], new)
            assert (growth.new_rows, growth.renewed, growth.removed) == (expected, {}, 0)


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


def test_a_file_of_an_earlier_version_lacks_only_values(tmp_path: Path) -> None:
    units, rows = caption_units(str(tmp_path)), _build_results(3)
    old = rows.drop_columns(["quality", "thinking_tokens"])
    earlier = UnitFolder(str(tmp_path), replace(CAPTIONS, schema=old.schema))
    earlier.commit(0, DIGEST, "run", old)
    found = units.read(0)
    assert found.schema.equals(RESULT_SCHEMA)
    assert found["quality"].null_count == 3
    assert found.drop_columns(["quality", "thinking_tokens"]).equals(old)
    earlier = UnitFolder(str(tmp_path), replace(CAPTIONS, schema=rows.drop_columns("model").schema))
    earlier.commit(1, DIGEST, "run", rows.drop_columns("model"))
    with pytest.raises(SchemaError):
        units.read(1)
