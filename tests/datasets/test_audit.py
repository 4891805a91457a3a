import io
import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from PIL import Image

from s4v_core.datasets.audit import audit_records
from s4v_core.datasets.audit_report import AuditReport
from s4v_core.errors import ConfigError
from tests.conftest import photo, write_tar
from tests.datasets.published import build_record, image_of, read_captions, write_array

JPEG = photo(1, (32, 24))


def caption_of(image: str | None, name: str = "1") -> dict[str, Any]:
    return build_record(name, image, "Describe it.", "A dog on a table.")


def write_files(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


def audit(tmp_path: Path, records: list[Any], files: dict[str, bytes], **more: Any) -> AuditReport:
    (tmp_path / "data.json").write_text(json.dumps(records, indent=1))
    store = write_files(tmp_path / "store", files)
    return audit_records(
        str(tmp_path / "data.json"), (str(store),), str(tmp_path / "audit"), **more
    )


def read_problems(tmp_path: Path) -> list[dict[str, Any]]:
    lines = (tmp_path / "audit" / "problems.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def find_trap(report: AuditReport, name: str) -> Any:
    return next((trap for trap in report.traps if trap.name == name), None)


def test_missing_images_are_found_and_the_rest_keeps_its_bytes(tmp_path: Path) -> None:
    sources = ("coco", "lcs", "sam", "wikiart")
    images = [image_of(source, number) for source in sources for number in (1, 2, 3)]
    records = [caption_of(image, f"r{at}") for at, image in enumerate(images)]
    lost = {images[1], images[5], images[11]}
    report = audit(
        tmp_path, [*records, caption_of(None)], {i: JPEG for i in images if i not in lost}
    )
    assert {line["found"] for line in read_problems(tmp_path)} == lost
    assert {line["reason"] for line in read_problems(tmp_path)} == {"not_found"}
    assert report.counts.faults == {"not_found": 3}
    states = report.counts.source_states
    assert states["coco"] == {"ok": 2, "not_found": 1}
    assert states["lcs"] == {"ok": 2, "not_found": 1}
    assert states["sam"] == {"ok": 3}
    assert report.counts.sources["text only"] == 1
    cleaned = (tmp_path / "audit" / "cleaned.json").read_text()
    assert [r["id"] for r in json.loads(cleaned)] == [
        r["id"] for r in records if r["image"] not in lost
    ] + ["1"]
    text = (tmp_path / "data.json").read_text()
    assert all(part in text for part in cleaned[2:-2].split(",\n {"))
    table = pq.read_table(tmp_path / "audit" / "manifest.parquet").to_pylist()
    assert len(table) == 13
    assert Counter(row["state"] for row in table) == {"ok": 10, "not_found": 3}
    assert table[1] == {
        "record": 2,
        "id": "r1",
        "image": images[1],
        "source": "coco",
        "state": "not_found",
    }


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ({"id": "1", "conversations": []}, "no_turns"),
        ({"id": "1"}, "bad_record"),
        ("text", "bad_record"),
        (
            {
                **caption_of("a.jpg"),
                "image": None,
                "conversations": [
                    {"from": "human", "value": "Hi"},
                    {"from": "gpt", "value": "Yes"},
                ],
            },
            "empty_image",
        ),
        ({**caption_of("a.jpg"), "image": ""}, "empty_image"),
        ({**caption_of("a.jpg"), "image": 5}, "bad_record"),
        (caption_of("/etc/passwd"), "unsafe_path"),
        (caption_of("../a.jpg"), "unsafe_path"),
        (caption_of("coco\\a.jpg"), "unsafe_path"),
        (caption_of("C:/a.jpg"), "unsafe_path"),
        (build_record("1", "a.jpg", "Describe it.", "  "), "empty_answer"),
        (build_record("1", "a.jpg", "<image>\n<image>", "Two."), "two_images"),
        (
            {
                "id": "1",
                "conversations": [
                    {"from": "gpt", "value": "a"},
                    {"from": "gpt", "value": "b"},
                    {"from": "gpt", "value": "b"},
                ],
            },
            "turns_out_of_order",
        ),
        (build_record("1", None, "Hi <image>", "Yes."), "image_mark_without_image"),
        (build_record("1", "a.jpg", "Hi", "Broken \ud800"), "bad_text"),
    ],
)
def test_faults_of_the_schema_are_named_and_left_out(
    tmp_path: Path, record: Any, reason: str
) -> None:
    report = audit(tmp_path, [record, caption_of("a.jpg", "2")], {"a.jpg": JPEG})
    assert report.counts.faults == {reason: 1}
    assert (report.counts.records, report.counts.kept) == (2, 1)
    assert [r["id"] for r in json.loads((tmp_path / "audit" / "cleaned.json").read_text())] == ["2"]
    assert read_problems(tmp_path)[0]["record"] == 1


def test_oddities_are_counted_and_kept(tmp_path: Path) -> None:
    leading = caption_of("a.jpg")
    leading["conversations"].insert(0, {"from": "gpt", "value": "Hello"})
    records = [
        {**caption_of("a.jpg"), "id": 7},
        {**caption_of("a.jpg"), "score": 1.5},
        leading,
        {k: v for k, v in caption_of("a.jpg").items() if k != "id"},
        caption_of("a.jpg"),
    ]
    report = audit(tmp_path, records, {"a.jpg": JPEG})
    assert report.counts.kept == 5
    assert report.counts.oddities == {
        "id_not_text": 1,
        "further_fields": 1,
        "leading_answer": 1,
        "unpaired_turn": 1,
        "mark_not_in_first_turn": 1,
        "id_missing": 1,
    }
    assert report.counts.repeated_ids == 2
    assert report.counts.repeated_images == 4
    assert find_trap(report, "repeated_ids").count == 2


def test_archives_that_unpack_too_deep_are_named(tmp_path: Path) -> None:
    images = [image_of("wikiart", n) for n in (1, 2)] + [image_of("landmark", 1)]
    report = audit(tmp_path, [caption_of(i) for i in images], {f"data/{i}": JPEG for i in images})
    trap = find_trap(report, "unpacked_too_deep")
    assert trap.count == 3
    assert "data/" in trap.example
    assert report.counts.kept == 0


def test_the_same_archive_read_in_its_own_place_has_no_trap(tmp_path: Path) -> None:
    images = [image_of("wikiart", n) for n in (1, 2)]
    (tmp_path / "data.json").write_text(json.dumps([caption_of(i) for i in images]))
    store = write_files(tmp_path / "store", {f"data/{i}": JPEG for i in images})
    report = audit_records(
        str(tmp_path / "data.json"), (str(store / "data"),), str(tmp_path / "audit")
    )
    assert report.counts.kept == 2
    assert [trap.name for trap in report.traps] == ["repeated_ids"]


@pytest.mark.parametrize(
    ("wanted", "stored", "trap"),
    [
        (image_of("ocr_vqa", 5), "ocr_vqa/images/5.png", "other_ending"),
        (image_of("ocr_vqa", 6), "ocr_vqa/images/6.gif", "other_ending"),
        ("share_textvqa/images/ab.jpg", "textvqa/train_images/ab.jpg", "textvqa_folder"),
        ("textvqa/train_images/ab.jpg", "share_textvqa/images/ab.jpg", "textvqa_folder"),
        (image_of("sam", 12), "sa_000000/sa_12.jpg", "sam_folder"),
    ],
)
def test_near_misses_are_named(tmp_path: Path, wanted: str, stored: str, trap: str) -> None:
    report = audit(tmp_path, [caption_of(wanted)], {stored: JPEG})
    assert find_trap(report, trap).count == 1
    assert wanted in find_trap(report, trap).example
    assert report.counts.faults == {"not_found": 1}


def test_missing_sam_images_are_told_by_their_tars(tmp_path: Path) -> None:
    numbers = [1, 11_500, 23_000, 160_000, 200_000, 500_000]
    records = [caption_of(image_of("sam", n)) for n in numbers]
    report = audit(tmp_path, records, {image_of("sam", 1): JPEG})
    trap = find_trap(report, "sam_incomplete")
    assert trap.count == 5
    assert "000001: 1, 000002: 1, 000014: 1, 000017: 1, 000044: 1" in trap.sentence
    assert "14, 16, 17 and 19" in trap.sentence
    assert "9K shortcut" in trap.sentence


def test_the_image_that_the_published_archive_lacks_is_named(tmp_path: Path) -> None:
    name = "web-celebrity/images/Choi_Min-sik.jpg"
    report = audit(tmp_path, [caption_of(name)], {"a.jpg": JPEG})
    assert find_trap(report, "missing_upstream").count == 1


def make_png_with_alpha() -> bytes:
    sink = io.BytesIO()
    Image.new("RGBA", (8, 8), (1, 2, 3, 4)).save(sink, "PNG")
    return sink.getvalue()


def make_rotated() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    sink = io.BytesIO()
    Image.new("RGB", (8, 12)).save(sink, "JPEG", exif=exif)
    return sink.getvalue()


def test_pixels_tell_corrupt_images_and_what_surprises(tmp_path: Path) -> None:
    files = {
        image_of("coco", 1): JPEG,
        image_of("coco", 2): JPEG[: len(JPEG) // 2],
        image_of("coco", 3): b"<html>403 Forbidden</html>",
        image_of("coco", 4): photo(2, (16, 16), "WEBP"),
        image_of("coco", 5): make_rotated(),
        "wikiart/images/work_6.jpg": make_png_with_alpha(),
        image_of("coco", 7): b"",
    }
    report = audit(tmp_path, [caption_of(i) for i in files], files, check="pixels")
    states = report.counts.source_states["coco"]
    assert states == {"ok": 3, "truncated": 1, "not_an_image": 2}
    assert find_trap(report, "lying_ending").count == 2
    assert find_trap(report, "exif_orientation").count == 1
    assert find_trap(report, "transparent").count == 1
    assert report.counts.kept == 4


def test_without_pixels_corrupt_images_are_not_opened(tmp_path: Path) -> None:
    files = {image_of("coco", 1): JPEG[:100]}
    assert audit(tmp_path, [caption_of(i) for i in files], files).counts.kept == 1


def test_without_images_only_the_records_are_judged(tmp_path: Path) -> None:
    (tmp_path / "data.jsonl").write_text(
        json.dumps(caption_of("a.jpg")) + "\n{oops\n" + json.dumps(caption_of("../b.jpg")) + "\n"
    )
    report = audit_records(str(tmp_path / "data.jsonl"), (), str(tmp_path / "audit"))
    assert report.counts.faults == {"bad_json": 1, "unsafe_path": 1}
    cleaned = (tmp_path / "audit" / "cleaned.jsonl").read_text()
    assert cleaned == json.dumps(caption_of("a.jpg")) + "\n"
    table = pq.read_table(tmp_path / "audit" / "manifest.parquet")
    assert table.column("state").to_pylist() == ["unchecked", "bad_json", "unsafe_path"]


def test_an_audit_is_never_written_over_another(tmp_path: Path) -> None:
    audit(tmp_path, [caption_of("a.jpg")], {"a.jpg": JPEG})
    with pytest.raises(ConfigError, match="exists and is not overwritten"):
        audit(tmp_path, [caption_of("a.jpg")], {"a.jpg": JPEG})


def test_the_report_says_it_all_in_lines_and_in_json(tmp_path: Path) -> None:
    records = [caption_of(image_of("coco", n)) for n in (1, 2, 3)]
    report = audit(tmp_path, records, {image_of("coco", 1): JPEG, "x\x1b.jpg": JPEG})
    text = report.as_text()
    assert "3 records, 3 different images; 1 records kept" in text
    assert "coco: 3, of which not_found 2" in text
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    assert found["states_by_source"] == {"coco": {"not_found": 2, "ok": 1}}
    assert found["images_by_pattern"] == {"coco/train#/#.jpg": 3}
    assert found["stored_images"] == 2


def write_shards(folder: Path, images: list[str], per_shard: int) -> None:
    for at in range(0, len(images), per_shard):
        members = dict.fromkeys(images[at : at + per_shard], JPEG[:64])
        write_tar(folder / f"{at // per_shard:05d}.tar", members)


def audit_shards(folder: Path, records: int, per_shard: int) -> tuple[AuditReport, set[str], float]:
    """Audit captions whose images lie in tars, but for one in twenty."""
    data = write_array(folder / "data.json", read_captions(records, chars=826))
    images = [r["image"] for r in read_captions(records, chars=1)]
    lost = set(images[7::20])
    write_shards(folder / "store", [i for i in images if i not in lost], per_shard)
    start = time.monotonic()
    report = audit_records(str(data), (str(folder / "store"),), str(folder / "audit"))
    return report, lost, time.monotonic() - start


def test_images_of_tar_shards_that_are_missing_are_exactly_those_found(tmp_path: Path) -> None:
    report, lost, _ = audit_shards(tmp_path, 2000, 300)
    assert {line["found"] for line in read_problems(tmp_path)} == lost
    assert len(lost) == 100
    assert report.counts.faults == {"not_found": 100}


def test_a_tar_that_is_cut_is_named_and_its_images_are_lost(tmp_path: Path) -> None:
    images = [image_of("sam", n) for n in range(1, 21)]
    path = write_tar(tmp_path / "store" / "sa_000000.tar", dict.fromkeys(images, JPEG))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2])
    (tmp_path / "data.json").write_text(json.dumps([caption_of(i) for i in images]))
    report = audit_records(
        str(tmp_path / "data.json"), (str(tmp_path / "store"),), str(tmp_path / "audit")
    )
    assert find_trap(report, "damaged_archive").example.endswith("sa_000000.tar")
    assert 5 < report.counts.kept < 15
    assert report.counts.kept + report.counts.faults.total() == 20


@pytest.mark.slow
@pytest.mark.timeout(7200)
def test_the_audit_of_1246901_records_takes_under_ten_minutes(tmp_path: Path) -> None:
    report, lost, seconds = audit_shards(tmp_path, 1_246_901, 10_000)
    assert {line["found"] for line in read_problems(tmp_path)} == lost
    assert report.counts.faults == {"not_found": len(lost)}
    assert seconds < 600
