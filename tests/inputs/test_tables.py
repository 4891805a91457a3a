"""Parquet and JSON as today's tools write them: pandas 3, polars, `datasets`, Spark, LLaVA."""

import base64
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyarrow.parquet import encryption

from s4v_core.errors import InputError
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.image_names import ImageNames
from s4v_core.inputs.indexing import INDEX_SCHEMA, ShardAccount, index_shard
from s4v_core.inputs.json_stream import read_values
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.text_blocks import TextBlocks
from s4v_core.records.schemas import table_of
from tests.conftest import photo

_NAMES = ["a.jpg", "sub/b.jpg", "sub/c.jpg"]
_STRUCT = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


class _Found:
    """The images of a shard: the content or reason of each image, by id, and the account."""

    def __init__(self, path: Path, **settings: Any) -> None:
        [shard] = find_shards([str(path)], **settings)
        self.rows, self.account = index_shard(shard)
        table_of(self.rows, INDEX_SCHEMA, "test")
        self.ids = [row["image_id"] for row in self.rows]
        self.contents = read_images(self.rows)
        self.images = dict(zip(self.ids, self.contents, strict=True))
        self.damages = [damage.kind for damage in self.account.damages]
        assert isinstance(self.account, ShardAccount)
        assert self.account.images == len(self.rows)


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [photo(seed, (40, 30)) for seed in range(3)]


@pytest.fixture
def root(tmp_path: Path, pictures: list[bytes]) -> Path:
    for name, data in zip(_NAMES, pictures, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


def _write(root: Path, **settings: Any) -> Callable[..., Path]:
    def write(**columns: Any) -> Path:
        pq.write_table(pa.table(columns), root / "t.parquet", **settings)
        return root / "t.parquet"

    return write


TEXTS: dict[str, Any] = {
    "string": pa.array(_NAMES),
    "large_string": pa.array(_NAMES, pa.large_string()),
    "string_view": pa.array(_NAMES, pa.string_view()),
    "dictionary": pa.array(_NAMES).dictionary_encode(),
    "dictionary of large_string": pa.array(_NAMES, pa.large_string()).dictionary_encode(),
    "text that is not marked as such": pa.array([name.encode() for name in _NAMES]),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_every_kind_of_text_names_images(root: Path, pictures: list[bytes], kind: str) -> None:
    found = _Found(_write(root)(path=TEXTS[kind]))
    assert found.images == dict(zip(_NAMES, pictures, strict=True))


@pytest.mark.parametrize("kind", ["binary", "large_binary", "binary_view", "dictionary", "fixed"])
def test_every_kind_of_binary_holds_images(root: Path, pictures: list[bytes], kind: str) -> None:
    types = {"large_binary": pa.large_binary(), "binary_view": pa.binary_view()}
    column: Any = pa.array([*pictures, None], types.get(kind, pa.binary()))
    if kind == "dictionary":
        column = column.dictionary_encode()
    if kind == "fixed":
        pictures = [data.ljust(4000, b"\0") for data in pictures]
        column = pa.array([*pictures, None], pa.binary(4000))
    found = _Found(_write(root, row_group_size=2)(image=column))
    assert found.contents == [*pictures, "not_found"]
    assert found.ids == ["t/0", "t/1", "t/2", "t/3"]


@pytest.mark.parametrize("statistics", [True, False])
def test_structs_of_datasets_hold_bytes_or_a_path_row_by_row(
    root: Path, pictures: list[bytes], statistics: bool
) -> None:
    images = [
        {"bytes": pictures[0], "path": "x.jpg"},  # row group 0: all embedded
        {"bytes": pictures[1], "path": "y.jpg"},
        {"bytes": None, "path": "sub/b.jpg"},  # 1: all by path
        {"bytes": None, "path": "gone.jpg"},
        {"bytes": pictures[2], "path": None},  # 2: mixed
        {"bytes": None, "path": str(root / "sub/c.jpg")},
        None,
        {"bytes": None, "path": None},
    ]
    write = _write(root, row_group_size=2, write_statistics=statistics)
    found = _Found(write(image=pa.array(images, _STRUCT)))
    assert found.images == {
        "x.jpg": pictures[0],
        "y.jpg": pictures[1],
        "sub/b.jpg": pictures[1],
        "gone.jpg": "not_found",
        "t/4": pictures[2],
        str(root / "sub/c.jpg"): pictures[2],
        "t/6": "not_found",
        "t/7": "not_found",
    }


def test_a_struct_whose_bytes_are_all_null_needs_no_type_of_bytes(root: Path) -> None:
    images = pa.array([{"bytes": None, "path": name} for name in _NAMES])
    assert pa.types.is_null(images.type.field("bytes").type)
    found = _Found(_write(root)(image=images))
    assert all(isinstance(data, bytes) for data in found.contents)


LISTS: dict[str, Any] = {
    "binary": pa.list_(pa.binary()),
    "large list of views": pa.large_list(pa.binary_view()),
    "struct": pa.list_(_STRUCT),
    "struct without path": pa.list_(pa.struct([("bytes", pa.binary())])),
}


@pytest.mark.parametrize("kind", LISTS)
def test_each_image_of_a_list_is_a_row_and_empty_lists_are_counted(
    root: Path, pictures: list[bytes], kind: str
) -> None:
    def element(data: bytes) -> Any:
        return {"bytes": data} if "struct" in kind else data

    one, two, three = (element(data) for data in pictures)
    lists = pa.array([[one, two], None, [], [three], [None]], LISTS[kind])
    write = _write(root, row_group_size=2)
    found = _Found(write(id=["p", "q", "r", "s", "t"], images=lists))
    contents: list[Any] = [*pictures, "not_found"]
    assert found.images == dict(zip(["p#0", "p#1", "s#0", "t#0"], contents, strict=True))
    assert found.account.skipped == 2
    without_ids = _Found(write(images=lists))
    assert without_ids.ids == ["t/0#0", "t/0#1", "t/3#0", "t/4#0"]
    assert without_ids.contents == contents


def test_a_list_may_mix_embedded_images_and_paths(root: Path, pictures: list[bytes]) -> None:
    lists = [
        [{"bytes": pictures[0], "path": "x.jpg"}, {"bytes": None, "path": "sub/b.jpg"}],
        [{"bytes": pictures[2], "path": None}],
    ]
    found = _Found(_write(root)(images=pa.array(lists, pa.list_(_STRUCT))))
    assert found.images == dict(zip(["x.jpg", "sub/b.jpg", "t/1#0"], pictures, strict=True))


def test_a_list_of_paths_gives_each_path(root: Path, pictures: list[bytes]) -> None:
    found = _Found(_write(root)(images=[_NAMES[:2], _NAMES[2:], []]))
    assert found.images == dict(zip(_NAMES, pictures, strict=True))
    assert found.account.skipped == 1


def test_images_within_text_are_decoded(root: Path, pictures: list[bytes]) -> None:
    texts = [base64.b64encode(data).decode() for data in pictures]
    cells = [f"data:image/jpeg;base64,{texts[0]}", texts[1], "a.jpg", "data:," + "x" * 50]
    found = _Found(_write(root)(image=cells))
    assert found.contents == [pictures[0], pictures[1], pictures[0], "bad_name"]


def test_a_path_goes_before_a_url_and_bytes_before_both(root: Path, pictures: list[bytes]) -> None:
    urls = ["http://127.0.0.1:9/page.html"]
    found = _Found(_write(root)(url=urls, image=["a.jpg"]))
    assert found.images == {"a.jpg": pictures[0]}
    assert found.account.notes == ["images are taken from image, not from url"]
    found = _Found(_write(root)(url=urls, path=["gone.jpg"], jpg=[pictures[1]]))
    assert found.contents == [pictures[1]]
    assert found.account.notes == ["images are taken from jpg, not from path, url"]
    assert found.account.describe(find_shards([str(root / "t.parquet")])[0])["notes"]
    assert _Found(_write(root)(path=["a.jpg"])).account.notes == []


def test_a_named_column_is_taken(root: Path, pictures: list[bytes]) -> None:
    write = _write(root)
    path = write(image=pictures[:1], thumbnail=pictures[1:2], x=["sub/c.jpg"], n=[1], ID=["i"])
    for column, data in (("image", 0), ("thumbnail", 1), ("x", 2)):
        found = _Found(path, image_column=column)
        assert found.contents == [pictures[data]]
        assert found.account.notes == []


@pytest.mark.parametrize(
    ("column", "sentence"),
    [
        ("nope", "no column nope: found path, n"),
        ("n", "column n cannot be images: found int64, allowed text or binary, as in path"),
    ],
)
def test_a_named_column_that_cannot_be_images_is_a_sentence(
    root: Path, column: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        _Found(_write(root)(path=["a.jpg"], n=[1]), image_column=column)


def test_a_table_without_images_is_a_sentence(root: Path) -> None:
    with pytest.raises(InputError, match="no image column: found text, allowed image, "):
        _Found(_write(root)(text=["a.jpg"]))


def test_ids_sources_and_kept_columns_of_any_type_become_text(root: Path) -> None:
    table = {
        "id": pa.array([7, None]),
        "path": ["a.jpg", "sub/b.jpg"],
        "source": pa.array(["coco", None]).dictionary_encode(),
        "score": [0.5, float("nan")],
        "text": pa.array(["x", "y"], pa.string_view()),
    }
    found = _Found(_write(root)(**table), columns=("score", "text", "absent"))
    assert found.ids == ["7", "sub/b.jpg"]
    assert [row["source"] for row in found.rows] == ["coco", root.name]
    payloads = [json.loads(row["payload"]) for row in found.rows]
    assert payloads == [{"score": 0.5, "text": "x"}, {"text": "y"}]


def test_text_that_is_no_utf8_costs_one_row(root: Path) -> None:
    raw = pa.array([b"a.jpg", b"caf\xe9.jpg"])
    broken = pa.Array.from_buffers(pa.string(), 2, raw.buffers())
    found = _Found(_write(root)(path=broken))
    assert [isinstance(data, bytes) for data in found.contents] == [True, False]
    assert found.contents[1] == "not_found"


# Damaged files.


def _damage_page(path: Path, group: int, column: int) -> None:
    offset = pq.ParquetFile(path).metadata.row_group(group).column(column).data_page_offset
    data = bytearray(path.read_bytes())
    for at in range(offset, offset + 30):
        data[at] ^= 255
    path.write_bytes(data)


def _thirty(root: Path, image: Any) -> Path:
    write = _write(root, row_group_size=10, use_dictionary=False)
    return write(image_id=[f"i{n}" for n in range(30)], image=image)


def test_a_damaged_image_page_costs_the_rows_of_its_row_group(root: Path) -> None:
    data = [photo(n, (16, 12)) for n in range(30)]
    path = _thirty(root, data)
    _damage_page(path, 1, 1)
    found = _Found(path)
    assert found.damages == []
    assert found.contents == [*data[:10], *["damaged_page"] * 10, *data[20:]]


def test_a_damaged_page_that_the_index_needs_is_a_damage_of_the_shard(root: Path) -> None:
    data = [photo(n, (16, 12)) for n in range(30)]
    path = _thirty(root, data)
    _damage_page(path, 1, 0)
    found = _Found(path)
    assert found.damages == ["damaged_page"]
    assert found.contents == data[:10] + data[20:]
    assert found.ids == [f"i{n}" for n in (*range(10), *range(20, 30))]


@pytest.mark.parametrize("is_list", [False, True])
def test_damaged_bytes_beside_sound_paths_cost_no_row_of_the_index(
    root: Path, is_list: bool
) -> None:
    """Mixed structs are the ones whose bytes the index reads."""
    images: list[Any] = [{"bytes": photo(n, (16, 12)), "path": f"{n}.jpg"} for n in range(30)]
    images[5] = images[15] = images[25] = {"bytes": None, "path": "a.jpg"}
    kind: Any = pa.list_(_STRUCT) if is_list else _STRUCT
    path = _thirty(root, pa.array([[i] if is_list else i for i in images], kind))
    _damage_page(path, 1, 1)
    found = _Found(path)
    assert len(found.ids) == 30
    assert [isinstance(data, bytes) for data in found.contents].count(True) == 20
    assert found.contents[10:20] == ["damaged_page"] * 10


@pytest.mark.parametrize(
    ("content", "damages"),
    [
        (b"", ["unreadable"]),
        (b"PAR1", ["unreadable"]),
        (b"<html>404</html>" * 20, ["unreadable"]),
        (b"PARE" + bytes(40) + (4).to_bytes(4, "little") + b"PARE", ["encrypted"]),
    ],
)
def test_a_file_that_is_no_parquet_is_a_damage(
    tmp_path: Path, content: bytes, damages: list[str]
) -> None:
    (tmp_path / "t.parquet").write_bytes(content)
    found = _Found(tmp_path / "t.parquet")
    assert (found.ids, found.damages) == ([], damages)


def test_a_truncated_parquet_is_a_damage_and_one_without_rows_is_none(root: Path) -> None:
    path = _write(root)(path=_NAMES)
    path.write_bytes(path.read_bytes()[:-20])
    assert _Found(path).damages == ["unreadable"]
    empty = _Found(_write(root)(anything=pa.array([], pa.null())))
    assert (empty.ids, empty.damages) == ([], [])


class _PlainKeys(encryption.KmsClient):
    """Keys that are kept unencrypted."""

    def __init__(self, config: Any) -> None:
        super().__init__()

    def wrap_key(self, key: bytes, master: str) -> bytes:
        return base64.b64encode(key)

    def unwrap_key(self, wrapped: bytes, master: str) -> bytes:
        return base64.b64decode(wrapped)


@pytest.mark.parametrize("is_footer_plain", [True, False])
def test_an_encrypted_parquet_is_a_damage_and_ends_no_process(
    root: Path, is_footer_plain: bool
) -> None:
    settings = encryption.EncryptionConfiguration(
        footer_key="f", column_keys={"c": ["path"]}, plaintext_footer=is_footer_plain
    )
    properties = encryption.CryptoFactory(_PlainKeys).file_encryption_properties(
        encryption.KmsConnectionConfig(), settings
    )
    found = _Found(_write(root, encryption_properties=properties)(path=_NAMES))
    assert (found.ids, found.damages) == ([], ["encrypted"])


# Names.


def test_absolute_paths_of_a_local_table_are_read(root: Path, pictures: list[bytes]) -> None:
    outside = root / "tables" / "t.parquet"
    outside.parent.mkdir()
    names = [
        str(root / "a.jpg"),
        f"file://{root}/sub/b.jpg",
        f"{root}//sub/./../sub/c.jpg",
        "/etc/passwd-no",
    ]
    pq.write_table(pa.table({"path": names}), outside)
    found = _Found(outside)
    assert found.contents == [*pictures, "not_found"]
    assert found.ids == names


def test_an_image_root_restricts_absolute_paths(root: Path, pictures: list[bytes]) -> None:
    names = [str(root / "sub/b.jpg"), str(root / "a.jpg"), "/etc/passwd", "file:///etc/passwd"]
    path = _write(root)(path=[*names, f"{root}/sub/../a.jpg", f"{root}/sub-not/x.jpg"])
    found = _Found(path, image_root=str(root / "sub"))
    assert found.contents == [pictures[1], *["unsafe_path"] * 5]


def test_no_name_leads_out_of_the_folder_of_its_images(root: Path) -> None:
    names = ["../x.jpg", "sub/../../x.jpg", "..\\x.jpg", "C:\\x.jpg", "c:/x.jpg", "\\\\host\\x.jpg"]
    found = _Found(_write(root)(path=names))
    assert found.contents == ["unsafe_path"] * len(names)


def test_a_remote_table_reads_no_file_of_this_machine() -> None:
    names = ImageNames(Shard("parquet", "s3://bucket/t/list.parquet", "list"))
    for name in ("/etc/passwd", "file:///etc/passwd", "local:///etc/passwd", "file:/etc/passwd"):
        assert names.resolve(name)[1] == "unsafe_path"
    assert names.resolve("~/x.jpg") == ("s3://bucket/t/~/x.jpg", None)
    assert names.resolve("a b/c.jpg") == ("s3://bucket/t/a b/c.jpg", None)


def test_names_beside_a_table_on_the_web_become_urls() -> None:
    names = ImageNames(Shard("list", "https://host/t/l.csv?sig=a/b", "l"))
    assert names.resolve("x y/#1?.jpg") == ("https://host/t/x y/%231%3F.jpg", None)
    assert names.resolve("HTTPS://other/x.jpg?a=1#b") == ("https://other/x.jpg?a=1#b", None)


def test_other_spellings_of_a_path_are_read(root: Path, pictures: list[bytes]) -> None:
    names = ["./a.jpg", "sub\\b.jpg", ".\\sub//c.jpg", "sub/../a.jpg"]
    found = _Found(_write(root)(path=names))
    assert found.contents == [*pictures, pictures[0]]


def test_a_home_folder_is_expanded(
    root: Path, pictures: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(root / "sub"))
    assert _Found(_write(root)(path=["~/b.jpg"])).contents == [pictures[1]]


def test_marks_in_a_name_mean_nothing(root: Path, pictures: list[bytes]) -> None:
    names = ["[1].jpg", "{a}.jpg", "a*b.jpg", "q?.jpg", "50%20.jpg", "#1.jpg", "a b.jpg", "x:y.jpg"]
    for number, name in enumerate(names):
        (root / name).write_bytes(pictures[0] + bytes([number]))
    found = _Found(_write(root)(path=names))
    assert found.contents == [pictures[0] + bytes([n]) for n in range(len(names))]
    uri = f"file://{root}/a%20b.jpg"
    assert _Found(_write(root)(path=[uri])).contents == [pictures[0] + bytes([6])]


def test_a_text_that_cannot_be_a_name_is_a_row(root: Path) -> None:
    names = ["a.jpg", "nul\0.jpg", "x" * 5000, "", ".", None]
    found = _Found(_write(root)(path=names))
    reasons = ["bad_name", "bad_name", "not_found", "bad_name", "not_found"]
    assert found.contents[1:] == reasons
    assert found.ids == ["a.jpg", "t/1", "t/2", "t/3", "t/4", "t/5"]


# JSON.

_RECORDS = [{"id": n, "image": name, "score": 0.5} for n, name in enumerate(_NAMES)]


def _json(root: Path, text: str | bytes, name: str = "r.json", **settings: Any) -> _Found:
    (root / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return _Found(root / name, **settings)


@pytest.mark.parametrize(
    "name", ["r.json", "r.Json", "r.jsonl", "r.JSONL", "r.ndjson", "r.jsonl.gz"]
)
@pytest.mark.parametrize("layout", ["array", "indented", "lines", "objects", "two arrays"])
def test_the_content_decides_how_a_json_is_read(
    root: Path, pictures: list[bytes], name: str, layout: str
) -> None:
    text = {
        "array": json.dumps(_RECORDS),
        "indented": json.dumps(_RECORDS, indent=2),
        "lines": "\n".join(map(json.dumps, _RECORDS)),
        "objects": "\n".join(json.dumps(record, indent=1) for record in _RECORDS),
        "two arrays": json.dumps(_RECORDS[:1]) + "\n" + json.dumps(_RECORDS[1:]),
    }[layout].encode()
    found = _json(root, gzip.compress(text) if name.endswith("gz") else text, name)
    assert found.images == dict(zip(_NAMES, pictures, strict=True))
    assert found.damages == []


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16"])
@pytest.mark.parametrize("lines", [False, True])
def test_a_bom_and_windows_line_ends_are_no_obstacle(
    root: Path, encoding: str, lines: bool
) -> None:
    text = "\r\n".join(map(json.dumps, _RECORDS)) if lines else json.dumps(_RECORDS, indent=1)
    assert _json(root, text.encode(encoding)).ids == _NAMES


@pytest.mark.parametrize("lines", [False, True])
def test_nan_and_infinity_are_numbers_without_a_value(root: Path, lines: bool) -> None:
    values = [float("nan"), float("inf"), 1.5]
    records = [{"image": n, "score": v} for n, v in zip(_NAMES, values, strict=True)]
    text = "\n".join(map(json.dumps, records)) if lines else json.dumps(records)
    assert "NaN" in text
    found = _json(root, text, columns=("score",))
    assert [row["payload"] for row in found.rows] == [None, None, '{"score": 1.5}']


def test_records_that_are_wrong_are_rows_and_text_alone_is_counted(root: Path) -> None:
    records = [
        {"image": "a.jpg"},
        {"image": 7},
        [1],
        None,
        {"image": None},
        {"id": 3},
        {"image": []},
        {"image": ["sub/b.jpg", "sub/c.jpg", "a.jpg"]},
        {"image": {"bytes": None, "path": "gone.jpg"}},
        {"image": "\ud800.jpg"},
    ]
    found = _json(root, json.dumps(records))
    problems = {row["image_id"]: row["problem"] for row in found.rows if row["problem"]}
    assert problems == {"r/1": "bad_name", "r/2": "bad_record", "r/3": "bad_record"}
    assert found.ids[4:] == ["sub/b.jpg", "sub/c.jpg", "gone.jpg", "?.jpg"]
    assert (found.account.skipped, found.account.repeated) == (3, 1)


def test_an_image_is_named_once_whatever_the_spelling(root: Path) -> None:
    names = ["a.jpg", "./a.jpg", str(root / "a.jpg"), f"file://{root}/a.jpg"]
    found = _json(root, json.dumps([{"image": name} for name in names]))
    assert (found.ids, found.account.repeated) == (["a.jpg"], 3)


def test_a_line_that_is_no_json_is_a_row(root: Path) -> None:
    lines = ['cut off"}', *map(json.dumps, _RECORDS[:2]), '{"image": }', json.dumps(_RECORDS[2])]
    found = _json(root, "\n".join(lines))
    assert found.ids == ["r/0", "a.jpg", "sub/b.jpg", "r/3", "sub/c.jpg"]
    assert [row["problem"] for row in found.rows] == ["bad_record", None, None, "bad_record", None]


@pytest.mark.parametrize(
    ("text", "damage"),
    [
        (json.dumps(_RECORDS)[:-20], "cut_json"),
        (json.dumps(_RECORDS)[:-1], "cut_json"),
        ("\n".join(map(json.dumps, _RECORDS))[:-9], "cut_json"),
        (json.dumps(_RECORDS[:2])[:-1] + ", {image: 1}, {}]" + " " * 100, "bad_json"),
        (json.dumps(_RECORDS) + "and more than that", "bad_json"),
    ],
)
def test_a_cut_json_keeps_the_records_before_the_cut(root: Path, text: str, damage: str) -> None:
    found = _json(root, text)
    assert found.damages == [damage]
    assert found.ids[:2] == _NAMES[:2]
    assert all(isinstance(data, bytes) for data in found.contents)
    assert 0 < found.account.damages[0].offset <= len(text)


def test_a_cut_gzip_is_the_damage_of_its_json(root: Path) -> None:
    many = [{"image": f"{n * 7919 % 100003}.jpg"} for n in range(20000)]
    packed = gzip.compress("\n".join(map(json.dumps, many)).encode())
    found = _json(root, packed[: len(packed) // 2], "r.jsonl.gz")
    assert found.damages == ["cut_gzip"]
    assert 5000 < len(found.ids) < 15000


@pytest.mark.parametrize("text", ["<html>404</html>", "[what", "PK\3\4\0\0", "a,b\n1,2\n"])
def test_what_is_no_json_at_all_is_a_sentence(root: Path, text: str) -> None:
    with pytest.raises(InputError, match="not a JSON array of records"):
        _json(root, text)


def test_records_that_name_their_images_in_another_field(root: Path) -> None:
    records = [{"file_name": name, "url": "http://127.0.0.1:9/x", "text": "t"} for name in _NAMES]
    found = _json(root, "\n".join(map(json.dumps, records)), "metadata.jsonl")
    assert found.ids == _NAMES
    assert found.account.notes == ["images are taken from file_name, not from url"]
    renamed = json.dumps([{"picture": name} for name in _NAMES])
    assert _json(root, renamed, image_column="picture").ids == _NAMES
    with pytest.raises(InputError, match="no image field: found picture, allowed image, "):
        _json(root, renamed)
    with pytest.raises(InputError, match="no image field: found picture, allowed nope"):
        _json(root, renamed, image_column="nope")
    assert _json(root, json.dumps(_NAMES)).ids == _NAMES


def test_conversations_without_any_image_are_no_error(root: Path) -> None:
    found = _json(root, json.dumps([{"id": 1, "conversations": []}] * 2))
    assert (found.ids, found.account.skipped) == ([], 2)


@pytest.mark.parametrize("step", [1, 2, 3, 7])
@pytest.mark.parametrize("lines", [False, True])
def test_records_are_decoded_alike_wherever_the_blocks_are_cut(step: int, lines: bool) -> None:
    class Slow(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            return super().read(step)

    records = [1.5e300, -12, True, None, float("inf"), 'é\U0001f600 "\\', {"a": [[], {}]}, []]
    texts = [json.dumps(record) for record in records]
    text = "\n".join(texts) if lines else f"[{', '.join(texts)}]"
    assert list(read_values(TextBlocks(Slow(text.encode())), [])) == records
