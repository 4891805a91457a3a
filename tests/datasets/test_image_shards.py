import json
import tarfile
from pathlib import Path

import pyarrow as pa
import pytest

from s4v_core.datasets.image_shards import write_record_shards
from s4v_core.datasets.record_files import read_record_file
from s4v_core.datasets.sampling import convert_records
from s4v_core.errors import ConfigError, InputError
from tests.conftest import photo, write_tar
from tests.datasets.published import build_record, image_of, read_captions, write_array


def read_members(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar}  # type: ignore[union-attr]


def test_shards_hold_image_caption_and_record_together(tmp_path: Path) -> None:
    images = {image_of("coco", n): photo(n, (16, 16)) for n in range(1, 6)}
    write_tar(tmp_path / "store" / "a.tar", images)
    records = [build_record(f"r{n}", name, "What?", f"Café {n}") for n, name in enumerate(images)]
    data = write_array(tmp_path / "data.json", iter(records))
    report = write_record_shards(
        str(data), [str(tmp_path / "store")], str(tmp_path / "out"), shard_size="2"
    )
    assert (report.samples, report.files, report.left_out) == (5, 3, {})
    members: dict[str, bytes] = {}
    for path in sorted((tmp_path / "out").iterdir()):
        members |= read_members(path)
    texts = [span.text for span in read_record_file(str(data)) if span.text]
    for number, (image, record) in enumerate(zip(images, records, strict=True), 1):
        assert members[f"{number:09d}.jpg"] == images[image]
        assert members[f"{number:09d}.txt"].decode() == record["conversations"][1]["value"]
        assert members[f"{number:09d}.json"].decode() == texts[number - 1]
    assert len(members) == 15


def test_what_has_no_image_is_counted_and_left_out(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "a.png").write_bytes(photo(1, (16, 16), "PNG"))
    records = [
        build_record("1", "a.png", "What?", "A dog"),
        build_record("2", "b.png", "What?", "A dog"),
        build_record("3", None, "What?", "A dog"),
        build_record("4", "../a.png", "What?", "A dog"),
        build_record("5", "./a.png", "What?", "Again"),
    ]
    data = write_array(tmp_path / "data.json", iter(records))
    report = write_record_shards(str(data), [str(tmp_path / "store")], str(tmp_path / "out"))
    assert report.left_out == {"not_found": 1, "text_only": 1, "unsafe_path": 1}
    names = list(read_members(tmp_path / "out" / "00000.tar"))
    assert names[:3] == ["000000001.png", "000000001.txt", "000000001.json"]
    assert len(names) == 6
    assert "2 samples written" in report.as_text()


def test_several_images_of_a_record_lie_side_by_side(tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    for name in ("a", "b"):
        (tmp_path / "store" / f"{name}.jpg").write_bytes(photo(ord(name), (16, 16)))
    record = build_record("1", "x", "<image>\nWhat?", "Two.") | {"image": ["a.jpg", "b.jpg"]}
    data = write_array(tmp_path / "data.json", iter([record]))
    write_record_shards(str(data), [str(tmp_path / "store")], str(tmp_path / "out"))
    members = read_members(tmp_path / "out" / "00000.tar")
    assert list(members) == ["000000001.jpg", "000000001.1.jpg", "000000001.txt", "000000001.json"]
    assert members["000000001.1.jpg"] == photo(ord("b"), (16, 16))


def test_a_folder_with_files_and_odd_sizes_are_refused(tmp_path: Path) -> None:
    data = write_array(tmp_path / "data.json", iter([build_record("1", None, "A", "B")]))
    with pytest.raises(ConfigError, match="has files"):
        write_record_shards(str(data), [str(tmp_path)], str(tmp_path))
    with pytest.raises(ConfigError, match="shard size"):
        write_record_shards(str(data), [str(tmp_path)], str(tmp_path / "out"), "huge")


def test_folders_of_parquet_and_of_arrow_files_are_read(tmp_path: Path) -> None:
    records = list(read_captions(7))
    for name, part in (("a", records[:4]), ("b", records[4:])):
        source = write_array(tmp_path / f"{name}.json", iter(part))
        convert_records(str(source), f"{tmp_path}/parquet/data/train-{name}.parquet")
    (tmp_path / "arrow").mkdir()
    (tmp_path / "arrow" / "state.json").write_text("{}")
    table = pa.Table.from_pylist(records)
    with pa.ipc.new_stream(
        str(tmp_path / "arrow" / "data-00000-of-00001.arrow"), table.schema
    ) as f:
        f.write_table(table)
    for folder in ("parquet", "arrow"):
        found = [span.value for span in read_record_file(str(tmp_path / folder)) if span.text]
        assert found == records
    convert_records(str(tmp_path / "arrow"), f"{tmp_path}/all.json")
    assert json.loads((tmp_path / "all.json").read_text()) == records


def test_a_folder_without_tables_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no table of records in it"):
        list(read_record_file(str(tmp_path)))
    with pytest.raises(InputError, match="no such file or folder"):
        list(read_record_file(str(tmp_path / "nothing")))
