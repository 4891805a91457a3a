"""Exports: what is in them, and that they write over nothing that the run did not write."""

import hashlib
import json
import os
import shutil
import tarfile
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from ray_jobs.export import main
from s4v_core import storage
from s4v_core.captioning.export import UnfinishedRunError, export_run
from s4v_core.captioning.export.image_names import FileNames, name_image
from s4v_core.datasets.joining import PlacedConversation, join_images
from s4v_core.errors import ConfigError, S4VError
from s4v_core.inputs.shard_size import ShardSize
from tests.captioning.captioned_run import caption_inputs
from tests.conftest import photo, write_tar


@pytest.fixture
def shards(tmp_path: Path) -> Path:
    """Case 39: equal keys in two shards, and a key with a dot."""
    folder = tmp_path / "in"
    write_tar(
        folder / "0.tar",
        {"a.jpg": photo(1), "v1.2.jpg": photo(2), "deep/er.png": photo(3, kind="PNG")},
    )
    write_tar(folder / "1.tar", {"a.jpg": photo(4), "b.JPG": photo(5)})
    return folder


@pytest.fixture
def run(shards: Path, tmp_path: Path) -> str:
    caption_inputs(tmp_path / "out", shards, rejected=("1/b",), more=("Another one.",))
    return str(tmp_path / "out")


def snapshot(*folders: Path) -> dict[str, tuple[int, str]]:
    """Time and content of every file below some folders."""
    return {
        str(path): (path.lstat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file()
    }


def read_tar(path: Path) -> dict[str, bytes]:
    with tarfile.open(path) as tar:
        return {m.name: tar.extractfile(m).read() for m in tar.getmembers()}  # type: ignore[union-attr]


def test_a_json_has_unique_ids_and_names_images_by_their_files(run: str, tmp_path: Path) -> None:
    assert export_run(run, f"{tmp_path}/c.json").rows == 4
    records = json.loads((tmp_path / "c.json").read_text())
    assert [r["id"] for r in records] == ["0/a", "0/v1.2", "0/deep/er", "1/a"]
    names = {r["image"] for r in records}
    assert names == {"0/a.jpg", "0/v1.2.jpg", "0/deep/er.png", "1/a.jpg"}
    unpacked = tmp_path / "unpacked"
    for name in ("0", "1"):
        with tarfile.open(tmp_path / "in" / f"{name}.tar") as tar:
            tar.extractall(unpacked / name, filter="data")
    assert all((unpacked / name).is_file() for name in names)
    assert records[0]["more_captions"] == ["Another one."]


def test_training_finds_the_images_of_an_exported_json(run: str, tmp_path: Path) -> None:
    export_run(run, f"{tmp_path}/c.json")
    found = list(join_images((f"{tmp_path}/c.json",), (f"{tmp_path}/in",), None))
    places = {
        f.conversation.sample_id: f.places[0] for f in found if isinstance(f, PlacedConversation)
    }
    assert {key: place["image_id"] for key, place in places.items() if place}.items() >= {
        "0/a": "0/a",
        "0/deep/er": "0/deep/er",
        "1/a": "1/a",
    }.items()


@pytest.mark.parametrize(
    ("planned", "image_id", "name"),
    [
        ({"container": "tar", "member": "v1.2.JPG"}, "0/v1.2", "0/v1.2.JPG"),
        ({"container": "tar", "member": "sub/a.jpeg"}, "x/0/sub/a", "x/0/sub/a.jpeg"),
        ({"container": "tar", "member": "a.jpg"}, "0/a#2", "0/a#2.jpg"),
        ({"container": "tar", "member": "picture"}, "0/picture", "0/picture"),
        ({"container": "tar", "member": None}, "0/v1.2", "0/v1.2.png"),
        ({"container": "tar"}, "0/v1.2", "0/v1.2.png"),
        ({"container": "parquet"}, "0/00000007", "0/00000007.png"),
        ({"container": "file"}, "sub/photo", "sub/photo"),
        ({"container": "file"}, "v1.2.jpg", "v1.2.jpg"),
    ],
)
def test_an_image_is_named_like_its_file(planned: dict[str, Any], image_id: str, name: str) -> None:
    assert name_image(planned, {"image_id": image_id, "image_format": "PNG"}) == name


def test_sidecars_hold_further_captions_and_facts(run: str, tmp_path: Path) -> None:
    export_run(run, f"{tmp_path}/c.tar")
    export_run(run, f"{tmp_path}/sidecars/")
    together = read_tar(tmp_path / "c.tar")
    beside = read_tar(tmp_path / "sidecars" / "0.tar")
    for about in (json.loads(together["0/a.json"]), json.loads(beside["a.json"])):
        assert about["more_captions"] == ["Another one."]
        assert (about["image_id"], about["width"], about["source"]) == ("0/a", 320, "in")
    assert together["0/a.txt"] == beside["a.txt"] == b"A picture,\nnamed 0/a."
    rest = read_tar(tmp_path / "sidecars" / "1.tar")
    assert set(rest) == {"a.txt", "a.json", "b.json"}
    assert json.loads(rest["b.json"])["reason"] == "looping"


def test_an_unfinished_run_is_exported_only_when_asked(
    shards: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    caption_inputs(tmp_path / "out", shards, unit_size=2, units=1)
    out, to = str(tmp_path / "out"), str(tmp_path / "c.jsonl")
    with pytest.raises(UnfinishedRunError, match=r"3 of 5 images have no row yet.*--partial"):
        main([out, "--to", to])
    assert not Path(to).exists()
    assert main([out, "--to", to, "--partial"]) == 0
    said = capsys.readouterr()
    assert "3 of 5 images have no row yet" in said.err
    assert "2 rows written" in said.out
    assert "2 are ok, 0 rejected, 0 errors" in said.out
    assert len(Path(to).read_text().splitlines()) == 2


ENDINGS = ["c.json", "c.jsonl", "c.parquet", "c.tar", "sidecars/"]


@pytest.mark.parametrize("name", ENDINGS)
def test_a_repeated_export_replaces_its_own_file_and_no_other(
    run: str, tmp_path: Path, name: str
) -> None:
    to = f"{tmp_path}/exports/{name}"
    export_run(run, to)
    first = snapshot(tmp_path / "exports")
    export_run(run, to)
    assert snapshot(tmp_path / "exports") == first  # not even written again
    for unit in (tmp_path / "out" / "captions").iterdir():
        unit.unlink()
    (tmp_path / "out" / "plan.parquet").unlink()
    caption_inputs(tmp_path / "out", tmp_path / "in", mark="Healed: ")
    export_run(run, to)
    healed = snapshot(tmp_path / "exports")
    assert healed.keys() == first.keys()
    assert healed != first
    file = Path(min(first))
    file.write_bytes(file.read_bytes()[:-1] + b"?")  # of the same size
    edited = snapshot(tmp_path / "exports")
    with pytest.raises(ConfigError, match="was not written by this run, or was changed since"):
        export_run(run, to)
    assert snapshot(tmp_path / "exports") == edited


FORMS: list[tuple[str, dict[str, Any]]] = [
    *((ending, {}) for ending in (".json", ".jsonl", ".parquet", ".tar", "/")),
    ("/", {"with_images": True}),
    ("/", {"with_images": True, "form": "files"}),
]


@pytest.mark.parametrize(("ending", "options"), FORMS)
def test_no_export_changes_a_file_that_it_did_not_write(
    tmp_path: Path, ending: str, options: dict[str, Any]
) -> None:
    folder = tmp_path / "in"
    write_tar(folder / "00000.tar", {"a.jpg": photo(1)})
    write_tar(folder / "00001.tar", {"b.jpg": photo(2)})
    write_tar(folder / "deep" / "captions.tar", {"c.jpg": photo(3)})
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("captions.json", "captions.jsonl", "captions.parquet", "captions.tar", "a.txt"):
        (mine / name).write_text("mine")
    shutil.copytree(mine, tmp_path / "many" / "00000.tar")  # a folder of a shard's name
    (tmp_path / "link").symlink_to(folder)
    (tmp_path / "hard").mkdir()
    for name in ("00000.tar", "captions.json"):
        os.link(folder / "00000.tar", tmp_path / "hard" / name)
    (tmp_path / "dangling").mkdir()
    for name in ("00000.tar", "captions.json", "captions.tar", "captions.jsonl"):
        (tmp_path / "dangling" / name).symlink_to(tmp_path / "nowhere")
    out = tmp_path / "out"
    caption_inputs(out, folder)
    export_run(str(out), f"{tmp_path}/earlier/", with_images=True)
    own = [out / "captions", out / "plan.parquet"]
    rows = {path: path.read_bytes() for path in (out / "captions").iterdir()}
    before = snapshot(folder, mine, tmp_path / "many", tmp_path / "hard")
    places = [
        *(folder, f"{folder}/.", f"{folder}/../in", tmp_path / "link", f"file://{folder}"),
        *(folder / "deep", mine, tmp_path / "many", tmp_path / "hard", tmp_path / "dangling"),
        *(out, out / "captions", tmp_path / "earlier"),
    ]
    names = [""] if ending == "/" else [f"/captions{ending}", f"/00000{ending}", f"/a{ending}"]
    run_files = ("run.json", "stats.json", "forecast.json", "plan.parquet")
    names += [f"/{name}" for name in run_files if name.endswith(ending) or ending == "/"]
    for place in places:
        for name in names:
            to = f"{place}{name}" + ("/" if ending == "/" else "")
            try:
                export_run(str(out), to, **options)
            except S4VError:
                continue
    after = snapshot(folder, mine, tmp_path / "many", tmp_path / "hard")
    assert {path: after[path] for path in before} == before
    assert {path: path.read_bytes() for path in (out / "captions").iterdir()} == rows
    assert all(path.exists() for path in own)
    assert not (tmp_path / "nowhere").exists()
    assert not (out / "run.json").exists()
    assert not (out / "stats.json").exists()


def test_case_01_an_export_into_the_folder_of_the_shards_is_refused(tmp_path: Path) -> None:
    for shard in range(2):
        write_tar(tmp_path / "in" / f"{shard:05d}.tar", {f"{shard}.jpg": photo(shard)})
    caption_inputs(tmp_path / "out", tmp_path / "in")
    before = snapshot(tmp_path / "in")
    with pytest.raises(ConfigError, match=r"in/00000\.tar is an input of this run"):
        export_run(str(tmp_path / "out"), f"{tmp_path}/in/")
    assert snapshot(tmp_path / "in") == before


def test_one_foreign_file_among_many_targets_stops_the_export_before_it_begins(
    run: str, tmp_path: Path
) -> None:
    (tmp_path / "sidecars").mkdir()
    (tmp_path / "sidecars" / "1.tar").write_text("mine")
    with pytest.raises(ConfigError, match=r"sidecars/1\.tar exists"):
        export_run(run, f"{tmp_path}/sidecars/")
    assert os.listdir(tmp_path / "sidecars") == ["1.tar"]


def test_two_shards_of_one_name_get_sidecars_of_their_own(tmp_path: Path) -> None:
    for folder in ("x", "y"):
        write_tar(tmp_path / folder / "0.tar", {f"{folder}.jpg": photo(1)})
    caption_inputs(tmp_path / "out", tmp_path / "x", tmp_path / "y")
    export_run(str(tmp_path / "out"), f"{tmp_path}/sidecars/")
    for name, key in (("0.tar", "x"), ("y/0.tar", "y")):
        with tarfile.open(tmp_path / "sidecars" / name) as tar:
            assert tar.getnames() == [f"{key}.txt", f"{key}.json"]


def test_exports_to_s3_leave_foreign_objects_alone(run: str, bucket: str) -> None:
    for name in ("c.json", "shards/00000.tar", "sidecars/1.tar"):
        storage.replace(f"{bucket}/{name}", b"mine")
    for to, options in (
        ("c.json", {}),
        ("sidecars/", {}),
        ("shards/", {"with_images": True}),
        ("shards/", {"with_images": True, "form": "files"}),
    ):
        with pytest.raises(ConfigError, match="not written by this run"):
            export_run(run, f"{bucket}/{to}", **options)  # type: ignore[arg-type]
    assert {f.uri.removeprefix(bucket): f.size for f in storage.list_files(bucket)} == {
        "/c.json": 4,
        "/shards/00000.tar": 4,
        "/sidecars/1.tar": 4,
    }
    for name in ("d.json", "d.parquet", "own/"):
        assert export_run(run, f"{bucket}/{name}").rows >= 4
        assert export_run(run, f"{bucket}/{name}").rows >= 4
    assert export_run(run, f"{bucket}/images/", with_images=True).rows == 4
    assert export_run(run, f"{bucket}/images/", with_images=True, shard_size="2").files == 2
    storage.replace(f"{bucket}/d.json", b"edited")
    with pytest.raises(ConfigError, match=r"d\.json exists"):
        export_run(run, f"{bucket}/d.json")
    assert storage.read(f"{bucket}/d.json") == b"edited"


def test_a_run_and_its_shards_on_s3_are_safe_from_its_exports(tmp_path: Path, bucket: str) -> None:
    write_tar(tmp_path / "0.tar", {"a.jpg": photo(1)})
    data = (tmp_path / "0.tar").read_bytes()
    storage.create(f"{bucket}/in/0.tar", data)
    caption_inputs(f"{bucket}/out", f"{bucket}/in")
    for to in ("in/", "in/0.tar", "out/plan.parquet", "out/captions/x.parquet"):
        with pytest.raises(ConfigError):
            export_run(f"{bucket}/out", f"{bucket}/{to}")
    assert storage.read(f"{bucket}/in/0.tar") == data
    assert export_run(f"{bucket}/out", f"{bucket}/out/c.json").rows == 1
    assert export_run(f"{bucket}/out", f"{bucket}/out/c.json").rows == 1


def test_shards_with_images_hold_the_stored_bytes_and_their_captions(
    run: str, tmp_path: Path
) -> None:
    assert export_run(run, f"{tmp_path}/s/", with_images=True, shard_size="3").files == 2
    found = read_tar(tmp_path / "s" / "00000.tar")
    assert list(found)[:3] == ["0_a.jpg", "0_a.txt", "0_a.json"]
    assert {name for name in found if name.endswith(("jpg", "png"))} == {
        "0_a.jpg",
        "0_v1_2.jpg",  # webdataset cuts keys at the first dot
        "0_deep_er.png",
    }
    assert found["0_a.jpg"] == photo(1)
    assert found["0_a.txt"] == b"A picture,\nnamed 0/a."
    about = json.loads(found["0_v1_2.json"])
    assert about["image_id"] == "0/v1.2"
    assert about["more_captions"] == ["Another one."]
    assert (about["width"], about["height"]) == (320, 240)
    assert read_tar(tmp_path / "s" / "00001.tar")["1_a.jpg"] == photo(4)


def test_fewer_shards_leave_none_of_the_earlier_ones(run: str, tmp_path: Path) -> None:
    export_run(run, f"{tmp_path}/s/", with_images=True, shard_size="1")
    assert len(os.listdir(tmp_path / "s")) == 4
    export_run(run, f"{tmp_path}/s/", with_images=True, shard_size="1GB")
    assert os.listdir(tmp_path / "s") == ["00000.tar"]
    assert len(read_tar(tmp_path / "s" / "00000.tar")) == 12


def test_exported_shards_can_be_captioned_again(run: str, tmp_path: Path) -> None:
    export_run(run, f"{tmp_path}/s/", with_images=True)
    head = caption_inputs(tmp_path / "again", tmp_path / "s")
    assert head.rows == 4


def test_image_files_have_a_caption_of_the_same_name_beside_them(run: str, tmp_path: Path) -> None:
    exported = export_run(run, f"{tmp_path}/f/", with_images=True, form="files")
    names = ["0_a.jpg", "0_deep_er.png", "0_v1_2.jpg", "1_a.jpg"]
    texts = [f"{name.rpartition('.')[0]}.txt" for name in names]
    assert sorted(os.listdir(tmp_path / "f")) == sorted([*names, *texts, "meta_cap.json"])
    assert (exported.rows, exported.files) == (4, 9)
    assert (tmp_path / "f" / "0_a.jpg").read_bytes() == photo(1)
    assert (tmp_path / "f" / "0_a.txt").read_text() == "A picture, named 0/a.\nAnother one.\n"
    metadata = json.loads((tmp_path / "f" / "meta_cap.json").read_text())
    assert metadata["0_v1_2"] == {"caption": "A picture, named 0/v1.2."}
    assert len(metadata) == 4
    before = snapshot(tmp_path / "f")
    export_run(run, f"{tmp_path}/f/", with_images=True, form="files")
    assert snapshot(tmp_path / "f") == before
    for edited in (
        "edited by me",
        "a picture, named 0/a.\nAnother one.\n",
    ):  # the other size, the same
        (tmp_path / "f" / "0_a.txt").write_text(edited)
        with pytest.raises(ConfigError):
            export_run(run, f"{tmp_path}/f/", with_images=True, form="files")
        assert (tmp_path / "f" / "0_a.txt").read_text() == edited


def test_images_that_cannot_be_read_any_more_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    for number in range(4):
        (folder / f"{number}.jpg").write_bytes(photo(number))
    caption_inputs(tmp_path / "out", folder)
    (folder / "1.jpg").unlink()
    (folder / "2.jpg").write_bytes(photo(9))
    code = main([f"{tmp_path}/out", "--to", f"{tmp_path}/s/", "--with-images"])
    assert code == 3
    assert "2 captioned images could not be read and are left out: " in capsys.readouterr().out
    images = {n: d for n, d in read_tar(tmp_path / "s" / "00000.tar").items() if "jpg" in n}
    assert images == {"0.jpg": photo(0), "3.jpg": photo(3)}


def test_a_unit_without_rows_does_not_change_the_names_of_others(tmp_path: Path) -> None:
    write_tar(tmp_path / "in" / "0.tar", {"A.jpg": photo(1), "a.jpg": photo(2)})
    ids = ("0/A", "0/a")
    caption_inputs(tmp_path / "out", tmp_path / "in", unit_size=1)
    out = str(tmp_path / "out")
    export_run(out, f"{tmp_path}/all/", with_images=True, form="files")
    (tmp_path / "out" / "captions" / "unit-000000.parquet").unlink()
    export_run(out, f"{tmp_path}/part/", with_images=True, form="files", partial=True)
    whole = set(os.listdir(tmp_path / "all"))
    assert set(os.listdir(tmp_path / "part")) < whole
    assert len({name.casefold() for name in whole}) == 2 * len(ids) + 1


NASTY = [
    *("../../etc/passwd", "/etc/passwd", "a\0b", "a\nb", "..", ".", "", "con.jpg", "CON", "a/../b"),
    *(
        "x" * 400,
        "x" * 400 + "y",
        "é" * 200,
        "-rf",
        "~",
        "$HOME",
        "a\\b",
        "c:\\d",
        "A",
        "a",
        "a.jpg",
    ),
    *("0/a", "0_a", "0 a", "e\u0301", "\u00e9", "名前.png", "\x1b[31m", "a.tar.gz", ".hidden.jpg"),
]


def test_file_names_are_safe_and_differ_on_every_disk() -> None:
    names = FileNames()
    found = [names.choose(one) for one in NASTY]
    assert len({name.casefold() for name in found}) == len(NASTY)
    for name in found:
        assert name.replace("-", "").replace("_", "").isalnum()
        assert not name.startswith("-")
        assert len(name.encode()) < 200
    again = FileNames()
    assert [again.choose(one) for one in NASTY] == found


@pytest.mark.parametrize("text", ["", "0", "1TB", "-5", "1.5GB", "GB", "ten"])
def test_a_shard_size_that_says_nothing_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="allowed a number of images"):
        ShardSize.parse(text)


def test_shard_sizes() -> None:
    assert ShardSize.parse("1GB") == ShardSize(10**9, is_bytes=True)
    assert ShardSize.parse("500 mb") == ShardSize(5 * 10**8, is_bytes=True)
    assert ShardSize.parse("10000") == ShardSize(10000, is_bytes=False)


@pytest.mark.parametrize(
    ("to", "options"),
    [("x.csv", {}), ("in", {}), ("", {}), ("x.tar", {"with_images": True})],
)
def test_other_names_are_refused(run: str, to: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="allowed"):
        export_run(run, to, **options)


def test_a_run_that_cannot_keep_receipts_is_exported_all_the_same(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out" / ".receipts").write_text("in the way")
    assert export_run(run, f"{tmp_path}/c.json").rows == 4
    (tmp_path / "c.json").write_text("edited")
    with pytest.raises(ConfigError):
        export_run(run, f"{tmp_path}/c.json")


def test_all_columns_survive_in_parquet(run: str, tmp_path: Path) -> None:
    export_run(run, f"{tmp_path}/c.parquet")
    table = pq.read_table(tmp_path / "c.parquet")
    assert table["more_captions"].to_pylist() == [["Another one."]] * 5
