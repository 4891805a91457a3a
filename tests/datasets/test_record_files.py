import gzip
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from s4v_core.datasets.record_files import read_record_file, write_record_file
from s4v_core.datasets.sampling import convert_records, sample_records
from s4v_core.errors import ConfigError, InputError
from tests.conftest import SHARED_DATA
from tests.datasets.published import read_captions, read_mixture, write_array

RECORDS: list[Any] = [
    {"id": "1", "image": "coco/train2017/000000000001.jpg", "conversations": []},
    {"id": "2", "conversations": [{"from": "human", "value": "Hi\n\ttab"}]},
    {"id": 3, "image": None, "extra": 1.50, "conversations": [{"value": "x", "from": "gpt"}]},
    {"id": "4", "image": "猫 é.jpg", "conversations": [{"from": "gpt", "value": "\u2028 ]},{["}]},
]

ARRAYS = {
    "one line": json.dumps(RECORDS),
    "indent 4": json.dumps(RECORDS, indent=4, ensure_ascii=False),
    "no spaces, line end": json.dumps(RECORDS, separators=(",", ":")) + "\n",
    "Windows": json.dumps(RECORDS, indent=1).replace("\n", "\r\n"),
    "byte order mark": "\ufeff" + json.dumps(RECORDS),
    "blanks around": " \n\n [\n " + " ,\n\n ".join(map(json.dumps, RECORDS)) + "  ]  \n\n",
    "a key twice": '[{"id": "1", "id": "2", "n": 1e5, "m": 1.0, "o": -0}]',
    "escapes": r'[{"id": "\u0041\/\ud83d\ude00\ud800", "n": NaN}]',
    "empty": "[]\n",
    "blank": "[ \n ]",
}


@pytest.mark.parametrize("text", ARRAYS.values(), ids=ARRAYS)
def test_an_array_goes_through_byte_for_byte(tmp_path: Path, text: str) -> None:
    (tmp_path / "in.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    convert_records(str(tmp_path / "in.json"), str(tmp_path / "out.json"))
    assert (tmp_path / "out.json").read_bytes() == (tmp_path / "in.json").read_bytes()


@pytest.mark.parametrize(
    "data",
    [
        b'{"id": "1"}\n{"id": "2"}\n',
        b'{"id": "1"}\r\n\r\n  {"id": "2"}  \r\n{"id":3}',
        b'\n\n{"id": "1"}\n',
        b'\xef\xbb\xbf{"id": "1"}\n{"id": "\xff\xfe broken"}\n',
        b"",
    ],
)
def test_json_lines_go_through_byte_for_byte(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "in.jsonl").write_bytes(data)
    convert_records(str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl"))
    assert (tmp_path / "out.jsonl").read_bytes() == data


def test_bytes_that_are_no_utf8_and_a_compressed_array_stay_as_they_are(tmp_path: Path) -> None:
    data = b'[{"id": "\xff\xc3"}, {"id": "2"}]'
    (tmp_path / "in.json.gz").write_bytes(gzip.compress(data))
    convert_records(str(tmp_path / "in.json.gz"), str(tmp_path / "out.json"))
    assert (tmp_path / "out.json").read_bytes() == data


@pytest.mark.parametrize("block", [8, 9, 13, 64])
def test_any_cut_of_the_blocks_gives_the_same_file(
    tmp_path: Path, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s4v_core.inputs.text_blocks._BLOCK_BYTES", block)
    for name, text in ARRAYS.items():
        source, target = tmp_path / f"{name}.json", tmp_path / f"{name}.out.json"
        source.write_bytes(text.encode("utf-8", "surrogatepass"))
        convert_records(str(source), str(target))
        assert target.read_bytes() == source.read_bytes(), name


@pytest.mark.parametrize("keep", [[1, 2, 3], [0, 2], [0], [3], []])
@pytest.mark.parametrize("form", ["array", "lines"])
def test_what_is_left_is_valid_and_has_its_text(tmp_path: Path, keep: list[int], form: str) -> None:
    is_array = form == "array"
    text = ARRAYS["indent 4"] if is_array else "\n".join(map(json.dumps, RECORDS)) + "\n"
    source, target = (str(tmp_path / f"{n}.json{'' if is_array else 'l'}") for n in ("in", "out"))
    Path(source).write_text(text)
    with write_record_file(target) as writer:
        for number, span in enumerate(read_record_file(source)):
            (writer.write if number in keep or not span.text else writer.skip)(span)
    found = Path(target).read_text()
    values = json.loads(found) if is_array else list(map(json.loads, found.split("\n")[:-1]))
    assert values == [RECORDS[number] for number in keep]
    kept = [span.text for at, span in enumerate(read_record_file(source)) if at in keep]
    assert all(one in found for one in kept)


@pytest.mark.parametrize("middle", ["jsonl", "parquet"])
def test_records_order_and_types_survive_every_form(tmp_path: Path, middle: str) -> None:
    (tmp_path / "a.json").write_text(json.dumps(RECORDS))
    convert_records(str(tmp_path / "a.json"), str(tmp_path / f"b.{middle}"))
    convert_records(str(tmp_path / f"b.{middle}"), str(tmp_path / "c.json"))
    text = (tmp_path / "c.json").read_text()
    assert json.dumps(json.loads(text)) == json.dumps(RECORDS)
    assert text.startswith("[\n{")
    assert text.endswith("}\n]\n")


def test_a_table_has_columns_that_datasets_and_pandas_read(tmp_path: Path) -> None:
    import pyarrow.parquet as pq

    write_array(tmp_path / "a.json", read_captions(9))
    convert_records(str(tmp_path / "a.json"), str(tmp_path / "a.parquet"))
    table = pq.read_table(tmp_path / "a.parquet")
    assert table.column("record").null_count == 9
    assert table.column("conversations")[4].as_py()[1]["from"] == "gpt"
    assert table.column("image")[0].as_py().endswith(".jpg")


@pytest.mark.skipif(not SHARED_DATA.is_dir(), reason="no shared data")
@pytest.mark.parametrize(
    "name", ["gpt4v_captions_5", "mllm_demo", "single_turn_single_image_example"]
)
def test_published_examples_go_through_byte_for_byte(tmp_path: Path, name: str) -> None:
    source = SHARED_DATA / "benchmarks" / "sharegpt4v_format" / f"{name}.json"
    convert_records(str(source), str(tmp_path / "out.json"))
    assert (tmp_path / "out.json").read_bytes() == source.read_bytes()


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b'[{"id": "1"}, {"id": "2"', "not a whole JSON array"),
        (b'[{"id": "1"} x', "not a whole JSON array"),
        (b"hello", "not a JSON array"),
        ('[{"id": "1"}]'.encode("utf-16"), "not a JSON array"),
    ],
)
def test_a_broken_file_is_refused_and_nothing_is_written(
    tmp_path: Path, data: bytes, sentence: str
) -> None:
    (tmp_path / "in.json").write_bytes(data)
    with pytest.raises(InputError, match=sentence):
        convert_records(str(tmp_path / "in.json"), str(tmp_path / "out.json"))
    assert [path.name for path in tmp_path.iterdir()] == ["in.json"]


def test_a_line_that_is_no_json_is_named(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text('{"id": "1"}\n{oops\n{"id": "3"}\n')
    with pytest.raises(InputError, match=r"record 2 is no JSON; dataset\.py audit"):
        convert_records(str(tmp_path / "in.jsonl"), str(tmp_path / "out.json"))


def test_a_file_that_exists_or_has_another_ending_is_refused(tmp_path: Path) -> None:
    (tmp_path / "in.json").write_text("[]")
    (tmp_path / "out.json").write_text("mine")
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        convert_records(str(tmp_path / "in.json"), str(tmp_path / "out.json"))
    assert (tmp_path / "out.json").read_text() == "mine"
    with pytest.raises(ConfigError, match=r"allowed names ending in \.json, \.jsonl"):
        convert_records(str(tmp_path / "in.json"), str(tmp_path / "out.csv"))


def test_samples_are_nested_seeded_and_in_order(tmp_path: Path) -> None:
    data = write_array(tmp_path / "all.json", read_mixture(500, 50))
    found = {}
    for name, count, seed in (("a", 100, 1), ("b", 300, 1), ("c", 100, 1), ("d", 100, 2)):
        report = sample_records(str(data), str(tmp_path / f"{name}.json"), count, seed)
        assert (report.records, report.total) == (count, 500)
        found[name] = [r["id"] for r in json.loads((tmp_path / f"{name}.json").read_text())]
    order = [r["id"] for r in json.loads(data.read_text())]
    assert (tmp_path / "a.json").read_bytes() == (tmp_path / "c.json").read_bytes()
    assert set(found["a"]) < set(found["b"])
    assert set(found["a"]) != set(found["d"])
    assert found["b"] == [name for name in order if name in set(found["b"])]
    with pytest.raises(InputError, match="found 500 records, needed 501"):
        sample_records(str(data), str(tmp_path / "e.json"), 501, 1)


def measure_round_trip(folder: Path, records: int) -> tuple[float, float]:
    """Peak of memory in GB, and size in GB, of a file that goes through in a process of its own."""
    source = write_array(folder / "all.json", read_captions(records, chars=826))
    # Not ru_maxrss, which a new program inherits from the process that started it.
    code = (
        "import re, sys; from s4v_core.datasets.sampling import convert_records as c; "
        "c(sys.argv[1], sys.argv[2]); "
        "print(re.search(r'VmHWM:\\s+(\\d+)', open('/proc/self/status').read())[1])"
    )
    target = folder / "out.json"
    command = [sys.executable, "-c", code, str(source), str(target)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    peak = int(done.stdout)
    with source.open("rb") as one, target.open("rb") as other:
        while block := one.read(1 << 24):
            assert other.read(1 << 24) == block
        assert other.read(1) == b""
    return peak / 1e6, source.stat().st_size / 1e9


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    peak, size = measure_round_trip(tmp_path, 12_000)
    assert size > 0.01
    assert peak < 0.25


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_file_of_the_size_of_the_1246k_goes_through_in_a_gigabyte(tmp_path: Path) -> None:
    peak, size = measure_round_trip(tmp_path, 1_246_901)
    assert size > 1.3
    assert peak < 1.0
