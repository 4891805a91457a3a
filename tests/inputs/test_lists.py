"""Lists of images that an input names: .csv, .tsv and .txt, as people and tools write them."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from s4v_core.errors import InputError
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.records.schemas import table_of
from tests.conftest import photo

_NAMES = ["a.jpg", "sub/b, c.jpg", "sub/d.jpg"]


class _Found:
    """The images of a list: the content or reason of each image, by id, and the account."""

    def __init__(self, path: Path, text: str | bytes, **settings: Any) -> None:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        [shard] = find_shards([str(path)], **settings)
        assert shard.kind == "list"
        self.rows, self.account = index_shard(shard)
        table_of(self.rows, INDEX_SCHEMA, "test")
        self.ids = [row["image_id"] for row in self.rows]
        self.contents = read_images(self.rows)
        self.images = dict(zip(self.ids, self.contents, strict=True))
        self.payloads = [json.loads(row["payload"] or "null") for row in self.rows]


@pytest.fixture(scope="module")
def pictures() -> list[bytes]:
    return [photo(seed, (40, 30)) for seed in range(3)]


@pytest.fixture
def root(tmp_path: Path, pictures: list[bytes]) -> Path:
    for name, data in zip(_NAMES, pictures, strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(data)
    return tmp_path


TEXTS = {
    "h.csv": 'image,text\na.jpg,one\n"sub/b, c.jpg","two, 2"\nsub/d.jpg,"say ""three"""\n',
    "spaces.csv": 'text, image\none, a.jpg\n"two, 2","sub/b, c.jpg"\nx , sub/d.jpg \n',
    "semicolons.csv": "path;text\na.jpg;one\nsub/b, c.jpg;two, 2\nsub/d.jpg;x\n",
    "tabs.csv": "file_name\ttext\na.jpg\tone\nsub/b, c.jpg\ttwo\nsub/d.jpg\tx\n",
    "capitals.CSV": 'TEXT,URL\none,a.jpg\ntwo,"sub/b, c.jpg"\nx,sub/d.jpg\n',
    "headless.csv": 'a.jpg,one\n"sub/b, c.jpg",two\nsub/d.jpg,three\n',
    "h.tsv": 'path\ttext\na.jpg\t"1\t2"\n"sub/b, c.jpg"\ttwo\nsub/d.jpg\tx\n',
    "headless.tsv": 'a.jpg\t"one\nsub/b, c.jpg\ttwo"\nsub/d.jpg\t"\n',
    "second.tsv": "a cat\ta.jpg\na dog\tsub/b, c.jpg\na cow\tsub/d.jpg\n",
    "l.txt": "a.jpg\nsub/b, c.jpg\nsub/d.jpg\n",
    "labels.txt": "a.jpg\t0\nsub/b, c.jpg\t1\nsub/d.jpg\t2",
    "blank.txt": "\n\na.jpg\n\nsub/b, c.jpg\nsub/d.jpg\n\n",
    "header.txt": "path\na.jpg\nsub/b, c.jpg\nsub/d.jpg\n",
    "multi-line.csv": 'image,text\na.jpg,"one\nand more"\n"sub/b, c.jpg",\nsub/d.jpg,\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_every_form_of_list_names_its_images(root: Path, pictures: list[bytes], name: str) -> None:
    found = _Found(root / name, TEXTS[name])
    assert found.images == dict(zip(_NAMES, pictures, strict=True))
    assert not found.account.damages


@pytest.mark.parametrize("name", ["h.csv", "headless.csv", "headless.tsv", "l.txt"])
@pytest.mark.parametrize("kind", ["crlf", "cr", "bom", "utf-16", "gzip"])
def test_line_ends_bom_and_compression_change_nothing(root: Path, name: str, kind: str) -> None:
    ends = {"crlf": "\r\n", "cr": "\r"}
    text = TEXTS[name].replace("\n", ends.get(kind, "\n"))
    data = text.encode({"bom": "utf-8-sig", "utf-16": "utf-16"}.get(kind, "utf-8"))
    path = root / name
    if kind == "gzip":
        path, data = root / f"{name}.gz", gzip.compress(data)
    assert _Found(path, data).ids == _NAMES


def test_the_cases_of_one_image_each(root: Path, pictures: list[bytes]) -> None:
    texts = {"list.csv": "image\na.jpg\n", "list.txt": "a.jpg\n", "list.tsv": "a.jpg\talt\n"}
    for name, text in texts.items():
        assert _Found(root / name, text).images == {"a.jpg": pictures[0]}


def test_ids_sources_and_columns_are_kept(root: Path) -> None:
    text = "id,image,source,text,n\nx,a.jpg,coco,one,\n,sub/d.jpg,,,2\ny,a.jpg,,,\n"
    found = _Found(root / "l.csv", text, columns=("text", "n", "absent"))
    assert found.ids == ["x", "sub/d.jpg", "y"]
    assert [row["source"] for row in found.rows] == ["coco", "sub", root.name]
    assert found.payloads == [{"text": "one"}, {"n": "2"}, None]
    assert found.account.repeated == 0  # rows with ids of their own are different rows


def test_every_line_is_a_row_or_counted(root: Path) -> None:
    text = (
        "text,image\nx,a.jpg\nx,./a.jpg\nx,gone.jpg\nx\nx,\nx,nul\0.jpg\nx,../a.jpg\nx,sub/d.jpg\n"
    )
    found = _Found(root / "l.csv", text)
    problems = [row["problem"] for row in found.rows]
    expected = [None, None, "not_found", "not_found", "bad_name", "unsafe_path", None]
    assert problems == expected
    assert found.ids == ["a.jpg", "gone.jpg", "l/3", "l/4", "l/5", "../a.jpg", "sub/d.jpg"]
    assert found.contents[1] == "not_found"
    assert found.account.repeated == 1


@pytest.mark.parametrize(
    "line", ['bad.jpg,"never closed', 'bad.jpg,"closed" too early', '"bad.jpg,x', 'bad.jpg,"x"y"']
)
def test_a_quotation_mark_without_a_partner_hides_no_line(root: Path, line: str) -> None:
    for rest in (["sub/d.jpg,x", "a.jpg,y"], ["sub/d.jpg,x", 'a.jpg,"y"']):
        text = "\n".join(["image,text", "first.jpg,z", line, *rest])
        found = _Found(root / "l.csv", text)
        assert {"first.jpg", "sub/d.jpg", "a.jpg"} <= set(found.ids)
        assert len(found.ids) == 4


def test_a_very_long_field_does_not_end_the_list(root: Path) -> None:
    found = _Found(root / "l.csv", f"image,text\na.jpg,{'x' * 200_000}\nsub/d.jpg,y\n")
    assert found.ids == ["a.jpg", "sub/d.jpg"]


def test_several_columns_that_could_name_images_are_a_note(root: Path) -> None:
    text = "url,image,picture\nhttp://127.0.0.1:9/x,a.jpg,sub/d.jpg\n"
    found = _Found(root / "l.csv", text)
    assert found.ids == ["a.jpg"]
    assert found.account.notes == ["images are taken from image, not from url"]
    found = _Found(root / "l.csv", text, image_column="picture")
    assert (found.ids, found.account.notes) == (["sub/d.jpg"], [])


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("l.csv", "name,text\nx,y\n", "names no images: found 'name,text', allowed a path or URL"),
        ("l.txt", "Some words.\nMore words.\n", "names no images: found 'Some words.'"),
        ("l.tsv", "PK\3\4\0\0\0", "names no images"),
        ("l.csv", "", "the list is empty"),
        ("l.txt", "\n \n", "the list is empty"),
    ],
)
def test_a_list_without_images_is_a_sentence(
    root: Path, name: str, text: str, sentence: str
) -> None:
    with pytest.raises(InputError, match=sentence):
        _Found(root / name, text)


def test_a_named_column_that_does_not_exist_is_a_sentence(root: Path) -> None:
    with pytest.raises(InputError, match="no column nope: found 'image,text'"):
        _Found(root / "l.csv", "image,text\na.jpg,x\n", image_column="nope")


def test_a_list_from_find_names_absolute_paths(root: Path, pictures: list[bytes]) -> None:
    (root / "lists").mkdir()
    text = "".join(f"{root / name}\n" for name in _NAMES)
    assert _Found(root / "lists" / "l.txt", text).contents == pictures
    found = _Found(root / "lists" / "l.txt", text, image_root=str(root / "sub"))
    assert found.contents == ["unsafe_path", *pictures[1:]]


def test_urls_keep_their_queries(root: Path) -> None:
    urls = ["https://example.org/a.jpg?sig=a%2Fb&x=[1]", "s3://bucket/x/b.jpg"]
    found_rows = _rows(root / "l.txt", "\n".join(urls))
    assert [(row["image_id"], row["uri"], row["problem"]) for row in found_rows] == [
        (url, url, None) for url in urls
    ]


def test_a_cut_gzip_is_a_damage_and_its_lines_are_kept(root: Path) -> None:
    packed = gzip.compress("".join(f"{n * 7919 % 100003}.jpg\n" for n in range(50000)).encode())
    (root / "l.txt.gz").write_bytes(packed[: len(packed) // 2])
    rows, account = index_shard(find_shards([str(root / "l.txt.gz")])[0])
    assert [damage.kind for damage in account.damages] == ["cut_gzip"]
    assert 10_000 < len(rows) < 40_000


def test_lists_in_a_folder_are_companions(root: Path) -> None:
    (root / "l.csv").write_text("image\na.jpg\n")
    (root / "l.txt").write_text("a.jpg\n")
    assert [shard.kind for shard in find_shards([str(root)])] == ["files"]


def _rows(path: Path, text: str) -> list[dict[str, Any]]:
    path.write_text(text)
    return index_shard(find_shards([str(path)])[0])[0]
