"""dataset.py writes; webdataset and datasets read."""

import json
from pathlib import Path
from typing import Any

import pytest

from s4v_core.datasets.image_shards import write_record_shards
from s4v_core.datasets.record_files import read_record_file
from s4v_core.datasets.sampling import convert_records
from tests.writers.passes import call_package, needs_packages, read_with
from tests.writers.pictures import draw_picture, read_number

pytestmark = [pytest.mark.writers, needs_packages]

NUMBERS = range(1, 15)


def build_records() -> list[dict[str, Any]]:
    return [
        {
            "id": str(number),
            "image": f"coco/train2017/{number:012d}.jpg",
            "conversations": [
                {"from": "human", "value": "<image>\nWhat?"},
                {"from": "gpt", "value": f"Café, picture {number}.\nTwo lines."},
            ],
        }
        for number in NUMBERS
    ]


@pytest.mark.parametrize("package", ["with_webdataset", "with_datasets"])
def test_shards_of_records_are_read_with_image_and_caption(tmp_path: Path, package: str) -> None:
    for record in build_records():
        path = tmp_path / "images" / record["image"]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(draw_picture(int(record["id"])))
    (tmp_path / "data.json").write_text(json.dumps(build_records()))
    shards = tmp_path / "shards"
    write_record_shards(
        str(tmp_path / "data.json"), [str(tmp_path / "images")], str(shards), shard_size="4"
    )
    samples = read_with(package, "read_records", tmp_path / "read", shards=str(shards))
    assert [read_number(sample.image) for sample in samples] == list(NUMBERS)
    assert [sample.number for sample in samples] == list(NUMBERS)
    for sample in samples:
        assert sample.caption == f"Café, picture {sample.number}.\nTwo lines."


def test_tables_are_loaded_and_what_datasets_saves_is_read(tmp_path: Path) -> None:
    (tmp_path / "data.json").write_text(json.dumps(build_records()))
    convert_records(str(tmp_path / "data.json"), str(tmp_path / "data.parquet"))
    call_package(
        "with_datasets",
        "save_records",
        table=str(tmp_path / "data.parquet"),
        saved=str(tmp_path / "saved"),
        lines=str(tmp_path / "lines.jsonl"),
        cache=str(tmp_path / "cache"),
    )
    lines = (tmp_path / "lines.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == build_records()
    found = [span.value for span in read_record_file(str(tmp_path / "saved")) if span.text]
    assert found == build_records()
