"""Files with training JSON as people have them: endings, compressions, encodings, damages."""

import bz2
import gzip
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import pytest

from s4v_core.datasets.conversations import Conversation, Unusable, read_conversations
from s4v_core.datasets.joining import join_images
from s4v_core.errors import InputError
from s4v_core.inputs import json_stream, text_blocks

RECORDS = [
    {"id": n, "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": f"{n}é"}]}
    for n in range(3)
]
TEXT = json.dumps(RECORDS, ensure_ascii=False)
LINES = "\n".join(json.dumps(record) for record in RECORDS)
WRAPPED = json.dumps({"data": RECORDS, "version": 2})

_Pack = Callable[[bytes], bytes]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.json", TEXT.encode()),
        ("a.JSON", TEXT.encode()),
        ("a.json", TEXT.encode("utf-8-sig")),
        ("a.json", TEXT.encode("utf-16")),
        ("a.json", LINES.encode()),
        ("a.ndjson", LINES.encode()),
        ("a.jsonl", f"\ufeff{LINES}".encode()),
        ("a.jsonl", LINES.replace("\n", "\r\n\r\n").encode()),
        ("a.jsonl", TEXT.encode()),
        ("a.Json.GZ", gzip.compress(TEXT.encode(), mtime=0)),
        ("a.jsonl.gz", gzip.compress(LINES.encode(), mtime=0)),
        ("a.json", gzip.compress(TEXT.encode(), mtime=0)),
        ("a.json.bz2", bz2.compress(TEXT.encode())),
        ("a.jsonl.xz", lzma.compress(LINES.encode())),
        ("a.json", WRAPPED.encode()),
        ("a.json", json.dumps({"info": {}, "train": RECORDS}, indent=1).encode()),
        ("a.json", json.dumps(RECORDS, indent=4).encode()),
        ("a.json", (TEXT[:-1] + ",]").encode()),
    ],
)
def test_every_record_of_a_readable_file_is_read(name: str, content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    found = list(join_images((str(tmp_path / name),), (), None))
    assert [one.conversation.turns[0][1] for one in found if not isinstance(one, Unusable)] == [
        "0é",
        "1é",
        "2é",
    ]


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("a.json", TEXT[:-20].encode(), "not a whole JSON array of records: cut_json at byte"),
        ("a.json.gz", gzip.compress(TEXT.encode(), mtime=0)[:-12], "cut_gzip at byte"),
        ("a.json", b"\0" * 100, "not a JSON array of records"),
        ("a.json", b"id,text\n1,hello\n", "not a JSON array of records"),
        ("a.json", TEXT.replace('"id": 1', '"id" 1').encode(), "bad_json at byte"),
        ("a.csv", b"id,text\n", "neither the output of a caption run nor a JSON; allowed endings"),
        ("a.parquet", b"PAR1", "neither the output of a caption run nor a JSON; allowed endings"),
    ],
)
def test_a_file_that_is_no_json_is_refused_in_a_sentence(
    name: str, content: bytes, sentence: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=sentence):
        list(join_images((str(tmp_path / name),), (), None))


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"b\.json: no such file"):
        list(join_images((str(tmp_path / "b.json"),), (), None))


def test_a_record_in_another_encoding_is_left_out_and_not_learnt_with_other_letters(
    tmp_path: Path,
) -> None:
    lines = [json.dumps(record, ensure_ascii=False) for record in RECORDS]
    content = "\n".join(lines).encode().replace("1é".encode(), "1é".encode("latin-1"))
    (tmp_path / "a.jsonl").write_bytes(content)
    first, bad, last = read_conversations(str(tmp_path / "a.jsonl"))
    assert isinstance(first, Conversation)
    assert isinstance(last, Conversation)
    assert isinstance(bad, Unusable)
    assert (bad.reason, bad.record, bad.field) == ("bad_text", 2, "conversations[1].value")
    assert "needed text in UTF-8" in bad.found
    json.dumps(bad.describe()).encode()


def test_a_line_that_is_no_json_is_left_out(tmp_path: Path) -> None:
    lines = LINES.split("\n")
    (tmp_path / "a.jsonl").write_text("\n".join([lines[0], '{"id": 7, "conver', *lines[1:]]) + "\n")
    found = list(read_conversations(str(tmp_path / "a.jsonl")))
    assert [isinstance(one, Unusable) and one.reason for one in found] == [
        *(False, "bad_json", False, False)
    ]


@pytest.mark.parametrize("indent", [None, 1])
def test_an_object_that_is_too_large_is_refused_with_the_way_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    for module in (json_stream, text_blocks):
        monkeypatch.setattr(module, "MAX_RECORD_CHARS", 1 << 20)
    text = json.dumps({"data": RECORDS * 30_000}, indent=indent)
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(InputError, match="give its list alone"):
        list(read_conversations(str(tmp_path / "a.json")))


def test_an_object_of_something_else_is_a_bad_record(tmp_path: Path) -> None:
    (tmp_path / "coco.json").write_text('{"images": [{"id": 1}], "annotations": [{"id": 2}]}')
    [found] = read_conversations(str(tmp_path / "coco.json"))
    assert isinstance(found, Unusable)
    assert found.found.startswith("found 'fields images, annotations', needed conversations")
