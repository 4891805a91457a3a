import gzip
import json
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core.errors import InputError
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.indexing import INDEX_SCHEMA, ShardAccount, index_shard
from s4v_core.records.schemas import table_of
from tests.conftest import photo, write_tar


class _Indexed(NamedTuple):
    rows: list[dict[str, Any]]
    account: ShardAccount


def _indexed(*inputs: str, image_root: str | None = None) -> list[_Indexed]:
    return [_Indexed(*index_shard(shard)) for shard in find_shards(inputs, image_root)]


def _images(index: _Indexed) -> dict[str, bytes | str]:
    table_of(index.rows, INDEX_SCHEMA, "test")
    return dict(zip((r["image_id"] for r in index.rows), read_images(index.rows), strict=True))


@pytest.fixture
def folder(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    root = tmp_path / "photos"
    for at, (name, data) in enumerate(photos.items()):
        path = root / ("a" if at % 2 else "b/c") / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    (root / "a" / "notes.txt").write_text("no image")
    (root / "manifest.csv").write_text("no image either")
    return root


def test_a_folder_gives_ids_by_relative_path_and_the_bytes_of_each(
    folder: Path, photos: dict[str, bytes]
) -> None:
    [index] = _indexed(str(folder))
    found = _images(index)
    assert {Path(name).name: data for name, data in found.items()} == photos
    assert {row["source"] for row in index.rows} == {"a", "b"}
    assert all(not name.startswith("/") for name in found)


def test_a_tar_gives_ids_by_shard_and_key_and_keeps_sidecars(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    members: dict[str, bytes] = {}
    for name, data in photos.items():
        members |= {name: data, name.replace(".jpg", ".txt"): name.encode()}
    write_tar(tmp_path / "0003.tar", members)
    [index] = _indexed(str(tmp_path / "0003.tar"))
    assert _images(index) == {f"0003/{Path(n).stem}": data for n, data in photos.items()}
    assert [row["payload"] for row in index.rows] == list(photos)
    assert not index.account.damages


@pytest.mark.parametrize("ending", ["tar.gz", "tgz"])
def test_a_compressed_tar_gives_the_same_images(
    tmp_path: Path, photos: dict[str, bytes], ending: str
) -> None:
    plain = write_tar(tmp_path / "0001.tar", photos)
    packed = tmp_path / "packed" / f"0001.{ending}"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    [index] = _indexed(str(packed))
    assert _images(index) == _images(_indexed(str(plain))[0])
    assert not index.account.damages


def test_names_that_trip_others_are_rows(tmp_path: Path) -> None:
    unnamed = photo(3, (40, 30))
    members = {"sa_1.2.jpg": b"1", ".x.jpg": b"2", "IMG_0001": unnamed, "a.jpg": b"4"}
    members |= {"a.png": b"5", "LICENSE": b"BSD"}
    write_tar(tmp_path / "s.tar", members)
    [index] = _indexed(str(tmp_path / "s.tar"))
    assert _images(index) == {
        "s/sa_1.2": b"1",
        "s/.x": b"2",
        "s/IMG_0001": unnamed,
        "s/a": b"4",
        "s/a#4": b"5",
    }


def test_img2dataset_tables_beside_their_tars_are_not_taken_for_images(tmp_path: Path) -> None:
    write_tar(tmp_path / "00000.tar", {"000000000.jpg": b"x"})
    pq.write_table(pa.table({"url": ["http://x"]}), tmp_path / "00000.parquet")
    (tmp_path / "00000_stats.json").write_text("{}")
    [shard] = find_shards([str(tmp_path)])
    assert shard.kind == "tar"


@pytest.mark.parametrize("layout", ["binary", "struct"])
def test_parquet_with_bytes_is_read_row_by_row(
    tmp_path: Path, photos: dict[str, bytes], layout: str
) -> None:
    images = list(photos.values())
    columns = {
        "binary": {"id": list(photos), "image": images},
        "struct": {
            "image": [{"bytes": b, "path": n} for n, b in photos.items()],
        },
    }[layout]
    pq.write_table(pa.table(columns), tmp_path / "part.parquet", row_group_size=7)
    [index] = _indexed(str(tmp_path / "part.parquet"))
    assert _images(index) == photos


def test_parquet_with_paths_is_read_from_the_image_root(folder: Path) -> None:
    table = pa.table({"path": ["a/photo_001.jpg", "gone.jpg", "../x.jpg", "/etc/passwd"]})
    pq.write_table(table, folder.parent / "list.parquet")
    [index] = _indexed(str(folder.parent / "list.parquet"), image_root=str(folder))
    found = list(_images(index).values())
    assert isinstance(found[0], bytes)
    assert found[1:] == ["not_found", "unsafe_path", "unsafe_path"]


@pytest.mark.parametrize("lines", [False, True])
def test_a_llava_json_gives_one_row_per_image_and_counts_the_rest(
    folder: Path, lines: bool
) -> None:
    turns = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "This."}]
    records = [
        {"id": "1", "image": "a/photo_001.jpg", "conversations": turns},
        {"id": "2", "image": "a/photo_001.jpg", "conversations": turns},
        {"id": "3", "conversations": turns},
        {"id": "4", "image": "a/gone.jpg", "conversations": turns},
    ]
    path = folder.parent / ("data.jsonl" if lines else "data.json")
    path.write_text("\n".join(map(json.dumps, records)) if lines else json.dumps(records))
    [index] = _indexed(str(path), image_root=str(folder))
    assert [row["image_id"] for row in index.rows] == ["a/photo_001.jpg", "a/gone.jpg"]
    assert (index.account.skipped, index.account.repeated) == (1, 1)
    assert list(_images(index).values())[1] == "not_found"


def test_a_json_with_a_wrong_field_names_record_and_field(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text('[{"image": "a.jpg"}, {"image": 7}]')
    with pytest.raises(InputError, match=r"record 1: image: found 7"):
        _indexed(str(tmp_path / "data.json"))


def test_an_unreadable_shard_is_named_and_the_others_go_on(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 but not really PAR1")
    (tmp_path / "b.tar").write_bytes(b"<html>404</html>" * 50)
    write_tar(tmp_path / "c.tar", {"x.jpg": b"x"})
    kinds = [[d.kind for d in index.account.damages] for index in _indexed(str(tmp_path))]
    assert kinds == [["unreadable"], ["not_a_tar"], []]


def test_an_object_replaced_after_indexing_is_a_reason_and_no_mix(tmp_path: Path) -> None:
    path = write_tar(tmp_path / "s.tar", {"a.jpg": b"a" * 600, "b.jpg": b"b" * 600})
    [index] = _indexed(str(path))
    path.unlink()
    write_tar(path, {"b.jpg": b"B" * 600, "a.jpg": b"A" * 600})
    assert read_images(index.rows) == ["source_changed"] * 2


@pytest.mark.parametrize(
    ("pattern", "sentence"),
    [
        ("nothing-here", "no such file or folder"),
        ("*.tar", "no file matches"),
        ("empty", "found no images"),
    ],
)
def test_an_input_that_is_not_there_is_one_sentence(
    tmp_path: Path, pattern: str, sentence: str
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match=sentence):
        find_shards([f"{tmp_path}/{pattern}"])
