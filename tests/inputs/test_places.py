"""A fault of one place is its row's reason; a store that fails as a whole fails the job."""

import gzip
import io
import os
import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core import storage
from s4v_core.captioning.task import CaptionTask
from s4v_core.errors import StorageError
from s4v_core.flow.loading import load_rows
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.image_bytes import read_images, read_sidecar
from s4v_core.inputs.indexing import index_shard
from s4v_core.inputs.shard_index import build_row
from tests.conftest import write_tar

Rows = list[dict[str, Any]]


def _plan(*uris: str) -> Rows:
    return [build_row(image_id=str(at), uri=uri, container="file") for at, uri in enumerate(uris)]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "img" / "folder").mkdir(parents=True)
    (tmp_path / "img" / "0.jpg").write_bytes(b"good")
    return tmp_path / "img"


PLACES = {
    "folder": "not_a_file",
    "folder/": "not_a_file",
    ".": "not_a_file",
    "0.jpg/x.jpg": "not_found",
    "gone.jpg": "not_found",
    "gone/deeper/x.jpg": "not_found",
    "A" * 300 + ".jpg": "bad_name",
    "iVBORw0KGgo" + "A" * 6000: "bad_name",
    "a/" * 3000 + "x.jpg": "bad_name",
    "data:image/png;base64," + "A" * 400: "not_found",
    "\0.jpg": "bad_name",
    "x\0y/0.jpg": "bad_name",
    "caf\udce9.jpg": "bad_name",
    "\ud800.jpg": "bad_name",
    "gs://bucket/x.jpg": "unsupported_scheme",
    "nosuchscheme://x.jpg": "unsupported_scheme",
    "://x.jpg": "not_found",
    "zip://x.jpg": "unsupported_scheme",
    "tar://x.jpg": "unsupported_scheme",
    "simplecache::file:///x.jpg": "unsupported_scheme",
    "ftp://127.0.0.1:1/x.jpg": "connection_refused",
    "memory://gone.jpg": "not_found",
    "file:///gone.jpg": "not_found",
    "a::b.jpg": "not_found",
    "http::x.jpg": "not_found",
    "?*[x].jpg": "not_found",
    "{a,b}.jpg": "not_found",
    "%s %d.jpg": "not_found",
    "~nobody/x.jpg": "not_found",
    "\u202e\n\t.jpg": "not_found",
}
"""Names that a record may hold, with the reason that each gives."""


@pytest.mark.parametrize("name", PLACES, ids=lambda name: ascii(name[:30]))
def test_a_record_that_names_no_file_is_a_reason_and_its_neighbours_are_read(
    folder: Path, name: str
) -> None:
    uri = name if "://" in name else f"{folder}/{name}"
    good = str(folder / "0.jpg")
    assert read_images(_plan(good, uri, good)) == [b"good", PLACES[name], b"good"]
    assert PLACES[name] in storage.REASONS


def _make_fifo(path: Path) -> None:
    os.mkfifo(path)


def _make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))


def _make_loop(path: Path) -> None:
    path.symlink_to(path)


def _make_dangling(path: Path) -> None:
    path.symlink_to("nothing")


def _make_link_to_device(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _make_link_to_fifo(path: Path) -> None:
    os.mkfifo(path.with_suffix(".fifo"))
    path.symlink_to(path.with_suffix(".fifo"))


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (_make_fifo, "not_a_file"),
        (_make_link_to_fifo, "not_a_file"),
        (_make_socket, "not_a_file"),
        (_make_link_to_device, "not_a_file"),
        (_make_loop, "unreadable"),
        (_make_dangling, "not_found"),
        (Path.mkdir, "not_a_file"),
    ],
)
def test_what_is_no_regular_file_is_a_reason_at_once(
    folder: Path, make: Callable[[Path], None], reason: str
) -> None:
    place = folder / "x.jpg"
    make(place)
    whole = _plan(str(place))[0]
    tar = whole | {"container": "tar", "offset": 0, "length": 5}
    packed, table = tar | {"container": "targz"}, whole | {"container": "parquet", "row": 0}
    assert [read_images([row]) for row in (whole, tar, packed, table)] == [[reason]] * 4


@pytest.mark.skipif(os.getuid() != 0, reason="needs a second user")
def test_a_file_without_permission_is_forbidden(folder: Path) -> None:
    (folder / "locked.jpg").write_bytes(b"secret")
    (folder / "locked.jpg").chmod(0)
    (folder / "closed").mkdir()
    (folder / "closed" / "x.jpg").write_bytes(b"secret")
    (folder / "closed").chmod(0)
    names = [str(folder / name) for name in ("0.jpg", "locked.jpg", "closed/x.jpg")]
    for parent in folder.parents:
        if not parent.stat().st_mode & 0o001:  # pytest closes its folders to other users
            parent.chmod(0o755)
    read_end, write_end = os.pipe()
    if (child := os.fork()) == 0:
        os.setuid(65534)
        os.write(write_end, repr(read_images(_plan(*names))).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read_end, 1000) == repr([b"good", "forbidden", "forbidden"]).encode()


def test_colons_are_part_of_a_name(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "Foo::Bar.jpg").write_bytes(b"loose")
    (tmp_path / "in" / "memory::x.jpg").write_bytes(b"like a chain")
    write_tar(tmp_path / "in" / "a::b.tar", {"x.jpg": b"in a tar"})
    found = [row for shard in find_shards([str(tmp_path / "in")]) for row in index_shard(shard)[0]]
    assert sorted(map(str, read_images(found))) == sorted(
        map(str, [b"loose", b"like a chain", b"in a tar"])
    )


def _make_shard(kind: str, folder: Path) -> Path:
    path = (
        folder / {"tar": "s.tar", "targz": "s.tar.gz", "parquet": "s.parquet", "zip": "s.zip"}[kind]
    )
    images = {f"{at}.jpg": bytes([at]) * 3000 for at in range(4)}
    if kind == "parquet":
        table = pa.table({"id": list(images), "image": list(images.values())})
        pq.write_table(table, path, row_group_size=2, compression="snappy")
    elif kind == "zip":
        with zipfile.ZipFile(path, "w") as archive:
            for name, data in images.items():
                archive.writestr(name, data)
    elif kind == "tar":
        write_tar(path, images)
    else:
        path.write_bytes(gzip.compress(write_tar(folder / "s.tar", images).read_bytes()))
    return path


@pytest.mark.parametrize("kind", ["tar", "targz", "zip", "parquet"])
def test_a_shard_that_vanished_or_became_a_folder_is_a_reason(tmp_path: Path, kind: str) -> None:
    path = _make_shard(kind, tmp_path)
    [shard] = find_shards([str(path)])
    rows, _ = index_shard(shard)
    assert read_images(rows) == [bytes([at]) * 3000 for at in range(4)]
    path.unlink()
    assert read_images(rows) == ["not_found"] * 4
    path.mkdir()
    assert read_images(rows) == ["not_a_file"] * 4
    path.rmdir()
    path.write_bytes(b"another file")
    assert read_images(rows) == ["source_changed"] * 4


def test_a_damaged_page_makes_its_row_group_unreadable_and_no_other(tmp_path: Path) -> None:
    path = _make_shard("parquet", tmp_path)
    chunk = pq.ParquetFile(path).metadata.row_group(1).column(1)
    data = bytearray(path.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    data[start : start + chunk.total_compressed_size] = b"\xff" * chunk.total_compressed_size
    path.write_bytes(data)
    [shard] = find_shards([str(path)])
    rows, _ = index_shard(shard)
    first = [bytes([at]) * 3000 for at in range(2)]
    assert read_images(rows) == [*first, "damaged_page", "damaged_page"]


def test_a_cut_archive_keeps_what_is_before_the_cut(tmp_path: Path) -> None:
    sink = io.BytesIO()
    path = write_tar(tmp_path / "s.tar", {f"{at}.jpg": os.urandom(3000) for at in range(4)})
    rows, _ = index_shard(find_shards([str(path)])[0])
    packed = gzip.compress(path.read_bytes())
    sink.write(packed[: len(packed) // 2])
    (tmp_path / "s.tar.gz").write_bytes(sink.getvalue())
    place = {"uri": str(tmp_path / "s.tar.gz"), "container": "targz", "etag": None}
    etag = storage.stat(place["uri"])
    assert etag is not None
    found = read_images([row | place | {"etag": etag.etag} for row in rows])
    assert isinstance(found[0], bytes)
    assert found[2:] == ["truncated", "truncated"]


def test_a_sidecar_that_cannot_be_read_is_none(folder: Path) -> None:
    assert read_sidecar(f'{{"uri": "{folder}"}}') is None
    assert read_sidecar('{"uri": "gs://bucket/x.txt"}') is None


def test_a_disk_that_fails_is_no_reason_of_an_image(folder: Path, monkeypatch: Any) -> None:
    def fail(*_: object, **__: object) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "open", fail)
    with pytest.raises(StorageError, match="Input/output error"):
        read_images(_plan(str(folder / "0.jpg")))


def test_limits_hold_for_every_container_and_nothing_large_is_read(tmp_path: Path) -> None:
    for kind in ("tar", "targz", "zip", "parquet"):
        [shard] = find_shards([str(_make_shard(kind, tmp_path))])
        rows, _ = index_shard(shard)
        assert read_images(rows, max_bytes=2999) == ["file_too_big"] * 4
        assert read_images(rows, max_bytes=3000)[3] == bytes([3]) * 3000
    storage.replace("memory://big.jpg", b"x" * 11)
    found = read_images(_plan("memory://big.jpg", "memory://big.jpg"), max_bytes=10)
    assert found == ["file_too_big"] * 2


_READ_LARGE = """
import resource, sys
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.shard_index import build_row
row = build_row(image_id="x", uri=sys.argv[1], container="file")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
print(read_images([row, row | {"length": 3 << 30}], max_bytes=64 << 20))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_a_file_of_gigabytes_is_refused_by_its_size(tmp_path: Path) -> None:
    with (tmp_path / "train2017.zip").open("wb") as file:
        file.truncate(3 << 30)
    done = subprocess.run(
        [sys.executable, "-c", _READ_LARGE, str(tmp_path / "train2017.zip")],
        capture_output=True,
        text=True,
        check=True,
    )
    found, grown_kib = done.stdout.splitlines()
    assert found == "['file_too_big', 'file_too_big']"
    assert int(grown_kib) < 50 << 10


def test_the_flow_reads_no_more_than_the_task_decodes(tmp_path: Path) -> None:
    (tmp_path / "x.jpg").write_bytes(bytes(2 << 20))
    [row] = _plan(str(tmp_path / "x.jpg"))
    assert load_rows([row], False, 1 << 20)[1] == ["file_too_big"]
    assert load_rows([row], False)[1] == [bytes(2 << 20)]
    assert isinstance(CaptionTask.max_file_bytes, property)


class _S3(BaseHTTPRequestHandler):
    """An S3 whose objects are refused by the error code that their names hold."""

    def do_GET(self) -> None:
        status, code = self.path.rpartition("/")[2].split("-", 1)
        body = b"x" * 100
        if status != "200":
            body = f"<Error><Code>{code}</Code><Message>no</Message></Error>".encode()
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def s3(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    import s3fs

    server = ThreadingHTTPServer(("127.0.0.1", 0), _S3)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", address)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "test")
    s3fs.S3FileSystem.clear_instance_cache()
    yield address
    server.shutdown()
    server.server_close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("200-ok", b"x" * 100),
        ("403-InvalidObjectState", "archived"),
        ("403-AccessDenied", "forbidden"),
        ("404-NoSuchKey", "not_found"),
        ("400-KeyTooLongError", "bad_name"),
        ("400-KMS.DisabledException", "unreadable"),
        ("400-InvalidRequest", "unreadable"),
        ("301-PermanentRedirect", "unreadable"),
        ("405-MethodNotAllowed", "unreadable"),
        ("422-SomethingOfThisStoreOnly", "unreadable"),
    ],
)
def test_an_object_that_s3_does_not_give_is_a_reason(
    s3: str, key: str, expected: bytes | str
) -> None:
    assert read_images(_plan(f"s3://bucket/{key}", "s3://bucket/200-x")) == [expected, b"x" * 100]
    if isinstance(expected, bytes):
        assert read_images(_plan(f"s3://bucket/{key}"), max_bytes=99) == ["file_too_big"]


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("s3://", "bad_name"),
        ("s3://bucket", "bad_name"),
        ("s3://bucket/", "bad_name"),
        ("s3://b@d bucket/x.jpg", "bad_name"),
        ("s3://bucket/a::b/200-ok", b"x" * 100),
    ],
)
def test_a_name_that_s3_cannot_have_is_a_reason(s3: str, uri: str, expected: bytes | str) -> None:
    assert read_images(_plan(uri)) == [expected]


@pytest.mark.parametrize(
    "key", ["403-ExpiredToken", "403-InvalidAccessKeyId", "403-SignatureDoesNotMatch"]
)
def test_credentials_that_are_refused_fail_the_job(s3: str, key: str) -> None:
    with pytest.raises(StorageError):
        read_images(_plan(f"s3://bucket/{key}"))


def test_an_s3_that_is_down_fails_the_job(monkeypatch: pytest.MonkeyPatch, s3: str) -> None:
    started = time.monotonic()
    with storage.patience(1), pytest.raises(storage.UnreachableError):
        read_images(_plan("s3://bucket/503-SlowDown"))
    assert time.monotonic() - started < 20


def test_a_store_without_credentials_is_one_records_fault_among_others(
    tmp_path: Path,
) -> None:
    good = tmp_path / "a.jpg"
    good.write_bytes(b"good")
    program = f"""
from s4v_core.inputs.image_bytes import read_images
from s4v_core.inputs.shard_index import build_row
def plan(*uris):
    return [build_row(image_id="x", uri=uri, container="file") for uri in uris]
s3 = "s3://bucket/a::b.jpg"
print(read_images(plan({str(good)!r}, s3)), read_images(plan(s3)))
try:
    read_images(plan(s3, s3))
except Exception as error:
    print(type(error).__name__)
"""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
    kept |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", program], env=kept, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "[b'good', 'unauthorized'] ['unauthorized']\nNoCredentialsError\n"
