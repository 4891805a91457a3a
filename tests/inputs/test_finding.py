"""Which files of the inputs become images: each once, none of a neighbour's, none in silence."""

import io
import json
import lzma
import os
import subprocess
import tarfile
import threading
import zipfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core.errors import InputError
from s4v_core.inputs import finding
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.indexing import INDEX_SCHEMA, ShardAccount, index_shard, index_tables
from s4v_core.inputs.repeated_files import RepeatedFiles
from s4v_core.inputs.zip_shards import read_zip_rows
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.schemas import table_of
from tests.conftest import photo, write_tar


def _write(root: Path, **files: bytes) -> None:
    for name, data in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)


def _write_photos(root: Path, *names: str) -> None:
    _write(root, **{name: photo(at, (40, 30)) for at, name in enumerate(names)})


def _index(*inputs: object) -> tuple[list[dict[str, Any]], int, list[str]]:
    """Rows, what was skipped, and kinds of damages of all shards of the inputs."""
    found = [index_shard(shard) for shard in find_shards([str(one) for one in inputs])]
    rows = [row for rows, _ in found for row in rows]
    kinds = [damage.kind for _, account in found for damage in account.damages]
    return rows, sum(account.skipped for _, account in found), kinds


def _ids(*inputs: object) -> list[str]:
    return [row["image_id"] for row in _index(*inputs)[0]]


def _names(rows: list[dict[str, Any]]) -> dict[str, bytes | str]:
    return dict(zip((row["image_id"] for row in rows), read_images(rows), strict=True))


# Inputs that overlap.


@pytest.mark.parametrize(
    "inputs",
    [
        ["in"],
        ["in/**"],
        ["in", "in/s"],
        ["in", "in/s/y.jpg", "in/*.jpg"],
        ["in/x.jpg", "in"],
        ["in/", "in/./s", "in//s/t"],
        ["in/*", "in/s/*", "in/s/t/z.jpg"],
        ["in", "in/{s,s/t}"],
        ["in/{x,x}.jpg", "in"],
    ],
)
def test_an_image_that_several_inputs_hold_counts_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str]
) -> None:
    _write_photos(tmp_path / "in", "x.jpg", "s/y.jpg", "s/t/z.jpg")
    monkeypatch.chdir(tmp_path)
    uris = sorted(row["uri"] for row in _index(*inputs)[0])
    assert uris == sorted(str(tmp_path / "in" / n) for n in ("x.jpg", "s/y.jpg", "s/t/z.jpg"))


def test_patterns_of_one_folder_are_all_read(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a.jpg", "b.png", "c.jpg")
    assert _ids(tmp_path / "a*.jpg", tmp_path / "*.png") == ["a.jpg", "b.png"]


def test_shards_of_one_name_get_ids_that_tell_them_apart(tmp_path: Path) -> None:
    for folder in ("v1", "v2", "w/v2"):
        write_tar(tmp_path / folder / "0.tar", {"a.jpg": photo(1, (40, 30))})
    inputs = [tmp_path / "v1/0.tar", tmp_path / "v2", tmp_path / "w/v2"]
    assert _ids(*inputs) == ["0/a", "v2/0/a", "w/v2/0/a"]


def test_a_pattern_over_folders_gives_ids_below_its_fixed_part(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a/1.jpg", "b/1.jpg")
    assert _ids(tmp_path / "*") == ["a/1.jpg", "b/1.jpg"]


@pytest.mark.parametrize("name", ["a[1].jpg", "{b}.jpg", "c*.jpg", "d?.jpg", "{e", "Foo::Bar.jpg"])
def test_a_name_with_the_marks_of_patterns_can_be_named(tmp_path: Path, name: str) -> None:
    _write_photos(tmp_path, name, "c1.jpg")
    if "." in name:
        assert _ids(tmp_path / name) == [name]
    assert name in _ids(tmp_path) or name == "{e"


@pytest.mark.parametrize("nothing", ["", "  "])
def test_an_empty_input_does_not_mean_the_current_folder(nothing: str) -> None:
    with pytest.raises(InputError, match="unset variable"):
        find_shards([nothing])


# Links, and what cannot be listed.


def test_links_to_files_shards_and_folders_are_followed(tmp_path: Path) -> None:
    _write_photos(tmp_path, "blobs/aa", "far/deep/c.jpg")
    write_tar(tmp_path / "blobs/bb", {"x.jpg": photo(2, (40, 30))})
    for blob in ("aa", "bb"):
        os.utime(tmp_path / "blobs" / blob, (1.6e9, 1.6e9))
    source = tmp_path / "in"
    source.mkdir()
    (source / "a.jpg").symlink_to("../blobs/aa")
    (source / "0.tar").symlink_to("../blobs/bb")
    (source / "linked").symlink_to("../far")
    (source / "again").symlink_to("../far")
    (source / "loop").symlink_to(".")
    (source / "gone.jpg").symlink_to("nowhere.jpg")
    rows, _, damages = _index(source)
    found = _names(rows)
    assert not damages
    assert found.pop("gone.jpg") == "not_found"
    assert found.keys() == {"0/x", "a.jpg", "again/deep/c.jpg"}
    assert all(isinstance(data, bytes) for data in found.values())


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_folder_without_permission_is_a_damage_and_a_file_a_row(tmp_path: Path) -> None:
    _write_photos(tmp_path / "in", "a.jpg", "locked.jpg", "sub/x.jpg")
    (tmp_path / "in/locked.jpg").chmod(0)
    (tmp_path / "in/sub").chmod(0)
    for folder in (tmp_path, *tmp_path.parents):
        if folder.owner() == "root" and str(folder).startswith("/tmp/"):
            folder.chmod(0o755)
    program = (
        "import os, json, sys; from tests.inputs import test_finding as t;"
        "os.setegid(65534); os.seteuid(65534);"
        f"rows, _, damages = t._index({str(tmp_path / 'in')!r});"
        "print(json.dumps([[r['image_id'] for r in rows], damages]))"
    )
    done = subprocess.run(
        [os.sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == [["a.jpg", "locked.jpg"], ["cannot_be_listed"]]


# What is an image, and what accompanies one.


def test_only_what_can_be_an_image_owns_a_key(tmp_path: Path) -> None:
    members: dict[str, bytes] = {}
    for n in range(2):
        members |= {f"s{n}.caption": b"alt", f"s{n}.depth.npy": b"x", f"s{n}.cls": b"1"}
        members |= {f"s{n}.jpg": photo(n, (40, 30)), f"s{n}.json": b"{}", f"s{n}.wav": b"RIFF"}
        members |= {f"s{n}": b"no image", f"s{n}.seg": b"\0" * 700}
    write_tar(tmp_path / "0.tar", members)
    rows, skipped, _ = _index(tmp_path)
    assert [row["image_id"] for row in rows] == ["0/s0", "0/s1"]
    assert [row["member"] for row in rows] == ["s0.jpg", "s1.jpg"]
    assert [row["payload"] for row in rows] == ["{}", "{}"]
    assert skipped == 12


COMPANIONS = ("a.caption", "LICENSE", "_SUCCESS", "_metadata", "data-00000-of-00001.arrow")
COMPANIONS += ("x.feather", "m.safetensors", "c.mp4", "notes.xyz", "empty")


def test_companions_are_counted_and_are_no_images(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a.jpg", "no_ending", "odd.ending")
    _write(tmp_path, **{name: b"x" for name in COMPANIONS} | {"empty": b""})
    write_tar(tmp_path / "0.tar", {"b.jpg": photo(2), ".DS_Store": b"x", "README": b"x"})
    rows, skipped, damages = _index(tmp_path)
    assert [row["image_id"] for row in rows] == ["0/b", "a.jpg", "no_ending", "odd.ending"]
    assert (skipped, damages) == (len(COMPANIONS) + 2, [])


def test_a_pattern_of_files_means_images_and_a_named_file_is_one(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a.jpg", "b.dat")
    _write(tmp_path, **{"c.json": b"{}", "d.csv": b"1", "e.dat": b"x"})
    assert _ids(tmp_path / "*") == ["a.jpg", "b.dat"]
    assert _ids(tmp_path / "e.dat") == ["e.dat"]
    assert _ids(tmp_path / "*.dat") == ["b.dat", "e.dat"]


@pytest.mark.parametrize("where", ["tar", "folder"])
def test_a_long_sidecar_is_the_same_in_a_tar_and_in_a_folder(tmp_path: Path, where: str) -> None:
    text = json.dumps({"alt": "dog", "more": "x" * 70000}).encode()
    if where == "tar":
        write_tar(tmp_path / "0.tar", {"s.jpg": photo(1), "s.json": text})
    else:
        _write(tmp_path, **{"s.jpg": photo(1), "s.json": text})
    from s4v_core.flow.loading import load_rows

    rows, _ = load_rows(_index(tmp_path)[0], reads_payloads=True)
    assert [row["payload"] for row in rows] == [text.decode()]


# Containers.


def _pack(folder: Path, ending: str, members: dict[str, bytes]) -> Path:
    plain = write_tar(folder / "plain.tar", members)
    raw, target = plain.read_bytes(), folder / f"00001{ending}"
    if ending == ".zip":
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as file:
            file.mkdir("folder")
            for name, data in members.items():
                file.writestr(name, data)
    elif ending in (".tar.bz2", ".tbz2", ".tar"):
        import bz2

        target.write_bytes(bz2.compress(raw))  # .tar: by a wrong name
    elif ending == ".tar.xz":
        target.write_bytes(lzma.compress(raw))
    elif ending == ".tgz":
        target.write_bytes(raw)  # not compressed, in spite of its name
    else:
        target.write_bytes(pa.compress(raw, "zstd", asbytes=True))
    plain.unlink()
    return target


@pytest.mark.parametrize("ending", [".tar.bz2", ".tar.xz", ".tar.zst", ".zip", ".tar", ".tgz"])
def test_packed_shards_are_read_like_plain_ones(tmp_path: Path, ending: str) -> None:
    members = {f"v/{n}.jpg": photo(n, (60, 40)) for n in range(5)}
    _pack(tmp_path, ending, members | {"v/0.txt": b"a word", "LICENSE": b"BSD"})
    rows, skipped, damages = _index(tmp_path)
    assert _names(rows[::-1]) == {f"00001/v/{n}": members[f"v/{n}.jpg"] for n in range(5)}
    assert (skipped, damages) == (1, [])


@pytest.mark.parametrize("name", ["a.rar", "a.7z", "a.tar.lz4", "a.jpg.gz"])
def test_other_archives_are_shards_that_cannot_be_read(tmp_path: Path, name: str) -> None:
    _write_photos(tmp_path, "a.jpg")
    _write(tmp_path, **{name: b"Rar!"})
    rows, _, damages = _index(tmp_path)
    assert ([row["image_id"] for row in rows], damages) == (["a.jpg"], ["unsupported_archive"])


def test_a_damaged_zip_is_named_and_its_members_fail_alone(tmp_path: Path) -> None:
    path = _pack(tmp_path, ".zip", {f"{n}.jpg": photo(n, (60, 40)) for n in range(3)})
    rows, _, _ = _index(path)
    data = bytearray(path.read_bytes())
    at = data.index(b"1.jpg") + 300
    data[at : at + 20] = bytes(20)
    path.write_bytes(data)
    rows = [row | {"etag": None} for row in _index(path)[0]]
    assert [isinstance(one, bytes) for one in _names(rows).values()] == [False] * 3
    rows, _, _ = _index(path)
    assert [one if isinstance(one, str) else "" for one in _names(rows).values()] == [
        *("", "truncated", "")
    ]
    path.write_bytes(data[:-200])
    assert _index(path)[2] == ["not_a_zip"]


@pytest.mark.parametrize("is_loose", [True, False])
def test_links_in_a_tar_are_images(tmp_path: Path, is_loose: bool) -> None:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as tar:
        member = tarfile.TarInfo("a.jpg")
        data = photo(1, (40, 30))
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))
        for name, kind, target in (
            ("b.jpg", tarfile.LNKTYPE, "a.jpg"),
            ("c.jpg", tarfile.SYMTYPE, "a.jpg"),
            ("d.jpg", tarfile.SYMTYPE, "nowhere.jpg" if is_loose else "c.jpg"),
        ):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = kind, target
            tar.addfile(link)
    (tmp_path / "0.tar").write_bytes(sink.getvalue())
    found = _names(_index(tmp_path)[0])
    last = {"0/d#link": "not_found"} if is_loose else {"0/d": data}
    assert found == {"0/a": data, "0/b": data, "0/c": data} | last


# Tables beside images.


def test_the_files_output_of_img2dataset_is_two_files_and_no_table(tmp_path: Path) -> None:
    _write_photos(tmp_path, "00000/000000000.jpg", "00000/000000002.jpg")
    _write(tmp_path, **{"00000/000000000.json": b"{}", "00000_stats.json": b"{}"})
    table = pa.table({"url": ["http://127.0.0.1:9/1.jpg"] * 3, "status": ["success"] * 3})
    pq.write_table(table, tmp_path / "00000.parquet")
    assert [row["container"] for row in _index(tmp_path)[0]] == ["file", "file"]


@pytest.mark.parametrize("name", ["metadata.parquet", "train/metadata.parquet", "labels.parquet"])
def test_a_table_that_names_the_images_beside_it_is_no_second_list(
    tmp_path: Path, name: str
) -> None:
    _write_photos(tmp_path, "train/a.jpg", "train/b.jpg")
    pq.write_table(pa.table({"file_name": ["a.jpg", "b.jpg"]}), tmp_path / name)
    assert _ids(tmp_path) == ["train/a.jpg", "train/b.jpg"]
    assert len(_ids(tmp_path / name)) == 2  # unless it is named


def test_a_table_of_images_beside_images_is_a_shard(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a.jpg")
    pq.write_table(pa.table({"image": [photo(2, (40, 30))]}), tmp_path / "more.parquet")
    assert _ids(tmp_path) == ["more/0", "a.jpg"]


def test_tables_alone_in_a_folder_are_lists(tmp_path: Path) -> None:
    for n in range(2):
        pq.write_table(pa.table({"url": [f"http://x/{n}.jpg"]}), tmp_path / f"{n}.parquet")
    assert len(_ids(tmp_path)) == 2


# Output of runs.


def _write_run(folder: Path) -> None:
    head = build_head([], [], {}, "x", kind="captions", key="image_id")
    write_plan(str(folder), head, [])
    _write_photos(folder, "exported/0.jpg", "captions/unit-000000.parquet")


def test_the_output_of_runs_below_an_input_is_left_out(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a.jpg", "sub/b.jpg")
    _write_run(tmp_path / "run1")
    _write_run(tmp_path / "sub/run2")
    pq.write_table(pa.table({"image": [photo(2)]}), tmp_path / "sub" / "plan.parquet")
    assert _ids(tmp_path) == ["sub/plan/0", "a.jpg", "sub/b.jpg"]
    assert _ids(tmp_path / "**") == _ids(tmp_path)
    (tmp_path / "run1" / "exported" / "0.jpg").unlink()
    with pytest.raises(InputError, match="output of a run"):
        find_shards([str(tmp_path / "run1")])
    _write_photos(tmp_path, "run1/exported/0.jpg")
    assert _ids(tmp_path / "run1" / "exported") == ["0.jpg"]


def test_a_run_in_the_folder_of_its_own_images_leaves_out_its_own_files(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a.jpg", "sub/b.jpg", "exported/c.jpg")
    before = [shard.listing for shard in find_shards([str(tmp_path)])]
    head = build_head([], [], {}, "x", kind="captions", key="image_id")
    write_plan(str(tmp_path), head, [])
    _write(tmp_path, **{"run.json": b"{}", "captions/unit-000000.parquet": b"", "stats.json": b""})
    assert [shard.listing for shard in find_shards([str(tmp_path)])] == before


def test_folder_marks_of_object_stores_are_no_files(s3_server: str) -> None:
    import boto3

    client = boto3.client("s3", endpoint_url=s3_server)
    client.create_bucket(Bucket="marks")
    for key, data in (("in/", b""), ("in/sub/", b""), ("in/sub/x.jpg", photo(1))):
        client.put_object(Bucket="marks", Key=key, Body=data)
    for place in ("s3://marks/in", "s3://marks/in/", "s3://marks/in/**"):
        assert _ids(place) == ["sub/x.jpg"]


# Images that have a caption already.


@pytest.mark.parametrize("where", ["folder", "tar"])
def test_images_with_a_caption_are_left_alone_if_asked_for(tmp_path: Path, where: str) -> None:
    files = {f"{n}.jpg": photo(n, (40, 30)) for n in range(6)}
    files |= {"0.txt": b"a cat", "1.txt": b" \n", "2.json": b'{"caption": "a dog"}'}
    files |= {"3.json": b'{"caption": ""}', "4.json": b"no json", "0.json": b"[1]"}
    if where == "tar":
        write_tar(tmp_path / "s.tar", files)
    else:
        _write(tmp_path / "s", **files)

    def list_keys(place: str | None) -> tuple[list[str], int]:
        shards = find_shards([str(tmp_path)], only_missing=place)
        [(rows, account)] = [index_shard(shard) for shard in shards]
        return [Path(row["image_id"]).stem for row in rows], account.captioned

    assert list_keys(None) == (list("012345"), 0)
    assert list_keys("txt") == (list("12345"), 1)
    assert list_keys("caption") == (list("01345"), 1)
    assert list_keys("alt") == (list("012345"), 0)


def test_a_large_folder_is_cut_into_shards_and_sidecars_stay_with_their_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(finding, "_MAX_FILES", 3)
    names = ["a", "a-b", "a.b", "a b", "b", "c", "c.1", "d/a", "d/b", "e"]
    for name in names:
        _write(tmp_path, **{f"{name}.jpg": photo(1, (40, 30)), f"{name}.txt": name.encode()})
    shards = find_shards([str(tmp_path)])
    assert len(shards) == 4
    rows = [row for shard in shards for row in index_shard(shard)[0]]
    assert sorted(row["image_id"] for row in rows) == sorted(f"{name}.jpg" for name in names)
    for row in rows:
        assert json.loads(row["payload"])["uri"] == row["uri"].replace(".jpg", ".txt")


def test_a_file_that_a_table_names_beside_its_folder_is_planned_once(tmp_path: Path) -> None:
    _write_photos(tmp_path / "in", "a.jpg", "b.jpg", "c.jpg")
    table = {"path": ["in/b.jpg", "in/b.jpg", "in/gone.jpg"], "id": ["1", "2", "3"]}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    (tmp_path / "l.txt").write_text("in/c.jpg\nin/gone.jpg\n")
    shards = find_shards([str(tmp_path / name) for name in ("t.parquet", "in", "l.txt")])
    tables = [table_of(index_shard(s)[0], INDEX_SCHEMA, s.uri) for s in shards]
    numbered = list(enumerate(tables))
    repeated = RepeatedFiles(numbered)
    assert repeated
    left = [(rows["image_id"].to_pylist(), count) for _, rows, count in repeated.drop(numbered)]
    assert left == [(["1", "2", "3"], 0), (["in/c.jpg"], 1), (["a.jpg"], 2)]
    assert not RepeatedFiles(numbered[:1])


# Web addresses.


@pytest.mark.parametrize("query", ["", "?sig=a%2Fb*c&x=[1]{2}", "?a=/x.jpg"])
def test_a_signed_address_of_a_shard_is_a_shard(tmp_path: Path, query: str) -> None:
    data = photo(1, (40, 30))
    write_tar(tmp_path / "shard.tar", {"a.jpg": data})
    pq.write_table(pa.table({"image": [data]}), tmp_path / "t.parquet")
    handler = partial(SimpleHTTPRequestHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        assert _names(_index(f"{address}/shard.tar{query}")[0]) == {"shard/a": data}
        assert _names(_index(f"{address}/t.parquet{query}")[0]) == {"t/0": data}
        server.shutdown()


# Names and layouts that a review tried.


def test_names_that_are_no_utf8_are_rows(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a.jpg", "0.tar")
    write_tar(tmp_path / "0.tar", {"x.jpg": photo(1, (40, 30))})
    for name in (b"caf\xe9.jpg", b"b\xff.tar"):
        Path(os.fsdecode(bytes(tmp_path) + b"/" + name)).write_bytes(
            (tmp_path / ("a.jpg" if name.endswith(b"jpg") else "0.tar")).read_bytes()
        )
    account = ShardAccount()
    shards = find_shards([str(tmp_path)])
    tables = [table for shard in shards for table in index_tables(shard, account)]
    rows = [row for table in tables for row in table.to_pylist()]
    found = {row["image_id"]: row["problem"] for row in rows}
    assert {name for name, problem in found.items() if problem is None} == {"a.jpg", "0/x"}
    assert list(found.values()).count("bad_name") == 1
    assert [damage.kind for damage in account.damages] == ["unreadable"]


def test_a_table_of_images_beside_a_folder_of_its_name_is_a_shard(tmp_path: Path) -> None:
    _write_photos(tmp_path, "train/a.jpg")
    pq.write_table(pa.table({"image": [photo(2, (40, 30))]}), tmp_path / "train.parquet")
    assert _ids(tmp_path) == ["train/0", "train/a.jpg"]


def test_other_spellings_of_a_folder_are_the_same_folder(tmp_path: Path) -> None:
    _write_photos(tmp_path / "in", "a.jpg")
    (tmp_path / "link").symlink_to("in")
    assert _ids(tmp_path / "in", tmp_path / "in/../in", tmp_path / "link") == ["a.jpg"]


def test_patterns_leave_hidden_files_out_as_folders_do(tmp_path: Path) -> None:
    _write_photos(tmp_path, "a.jpg", "._a.jpg", ".thumbs/t.jpg")
    for pattern in ("*", "*.jpg", "**/*.jpg", "**"):
        assert _ids(tmp_path / pattern) == ["a.jpg"]
    assert _ids(tmp_path / ".thumbs/*") == ["t.jpg"]


def test_sidecars_in_a_zip_are_those_of_a_tar(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "0.zip", "w") as file:
        for name, data in {"a.jpg": photo(1), "a.txt": b"a cat", "b.jpg": photo(2)}.items():
            file.writestr(name, data)
    rows, skipped, _ = _index(tmp_path)
    assert ([row["payload"] for row in rows], skipped) == (["a cat", None], 0)
    [shard] = find_shards([str(tmp_path)], only_missing="txt")
    rows, account = index_shard(shard)
    assert ([row["image_id"] for row in rows], account.captioned) == (["0/b"], 1)


def test_a_replaced_zip_gives_no_image_of_another_name(tmp_path: Path) -> None:
    def write(*names: str) -> None:
        with zipfile.ZipFile(tmp_path / "0.zip", "w") as file:
            for name in names:
                file.writestr(name, photo(1))

    write("a.jpg", "b.jpg")
    rows, _, _ = _index(tmp_path)
    rows = [row | {"etag": None} for row in rows]
    write("new.jpg")
    with open(tmp_path / "0.zip", "rb"):
        assert read_zip_rows(rows) == ["source_changed", "source_changed"]
