"""The guarantees of `storage`, and a whole pass, on a store that people run themselves: radosgw.

Also checks that pyarrow's own S3 client reads what the pass wrote.
"""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pa_fs
import pyarrow.parquet as pq
import pytest
import s3fs

from s4v_core import storage
from s4v_core.errors import StorageError
from s4v_core.records.captions import caption_units
from tests.faults.ceph import Gateway, radosgw
from tests.faults.proxy import FaultProxy
from tests.faults.race import prove_one_winner, rows_of_writer
from tests.faults.world import World, build_world
from tests.flow.scripts import FAKE, run

pytestmark = pytest.mark.timeout(900)

PAGED_FILES = 2100
"""Number of files for which the store returns a listing in three pages."""

LARGE_PLAN_BYTES = 101 << 20


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    with radosgw(tmp_path_factory.mktemp("ceph")) as found:
        yield found


@pytest.fixture
def ceph(
    gateway: Gateway, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> Iterator[str]:
    """An empty bucket on radosgw, which the environment variables point to."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", gateway.address)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", gateway.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", gateway.secret_key)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    s3fs.S3FileSystem.clear_instance_cache()
    name = "b" + "".join(c for c in request.node.name.lower() if c.isalnum())[:50]
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    yield f"s3://{name}"
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.mark.faults
def test_a_created_file_is_not_overwritten_and_is_read_back(ceph: str) -> None:
    assert storage.honours_create(ceph)
    uri = storage.join(ceph, "a folder", "ünit+1&2=%.parquet")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read(uri) == b"first"
    assert [file.uri for file in storage.list_files(storage.parent(uri))] == [uri]
    storage.remove(storage.parent(uri))
    assert not storage.exists(uri)


@pytest.mark.faults
def test_a_plan_of_over_100_mib_is_not_overwritten(ceph: str) -> None:
    uri = storage.join(ceph, "plan.parquet")
    assert storage.create(uri, b"1" * LARGE_PLAN_BYTES)
    assert not storage.create(uri, b"2" * LARGE_PLAN_BYTES)
    assert storage.read_tail(uri, 1) == b"1"


@pytest.mark.faults
def test_one_of_sixteen_writers_wins_on_radosgw(ceph: str) -> None:
    for unit in range(200):
        prove_one_winner(ceph, unit)
    assert caption_units(ceph).list_done() == set(range(200))


@pytest.mark.faults
def test_a_created_file_whose_answer_was_lost_is_there(
    ceph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    proxy = FaultProxy(os.environ["AWS_ENDPOINT_URL"])
    proxy.methods, proxy.dropped = (b"PUT",), 0.5
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    s3fs.S3FileSystem.clear_instance_cache()
    for unit in range(40):
        account, wrote = caption_units(ceph).commit(unit, "plan", "run", rows_of_writer(unit))
        assert (account.run_id, wrote) == ("run", True)
        assert caption_units(ceph).read(unit)["caption"].to_pylist() == [f"by writer {unit}"]
    proxy.close()
    assert proxy.fault_count > 10


@pytest.mark.faults
def test_a_range_of_an_object_that_was_replaced_is_refused(ceph: str) -> None:
    uri = storage.join(ceph, "0000.tar")
    storage.replace(uri, b"old" * 1000)
    (listed,) = storage.list_files(ceph)
    asked = storage.stat(uri)
    assert asked is not None
    assert asked.etag == listed.etag
    assert storage.read_range(uri, 3, 6, listed.etag) == b"oldold"
    storage.replace(uri, b"new" * 1000)
    with pytest.raises(storage.SourceChangedError):
        storage.read_range(uri, 3, 6, listed.etag)
    with pytest.raises(storage.SourceChangedError):
        storage.read(uri, listed.etag)
    assert storage.read_range(uri, 3, 6) == b"newnew"
    with pytest.raises(storage.SourceChangedError, match="found 3 of 6 bytes"):
        storage.read_range(uri, 2997, 6)


@pytest.mark.faults
def test_a_listing_of_several_pages_is_whole(ceph: str) -> None:
    uris = [caption_units(ceph).uri(number) for number in range(PAGED_FILES)]
    with ThreadPoolExecutor(16) as pool:
        assert all(pool.map(lambda uri: storage.create(uri, b"x"), uris))
    assert [file.uri for file in storage.list_files(ceph)] == uris
    assert storage.expand(storage.join(ceph, "captions", "unit-*.parquet")) == uris
    assert caption_units(ceph).list_done() == set(range(PAGED_FILES))


@pytest.mark.faults
def test_absent_and_forbidden_files_are_reported_at_once(
    ceph: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for absent in (storage.join(ceph, "absent"), "s3://no-such-bucket/absent"):
        assert storage.stat(absent) is None
        assert not storage.exists(absent)
        for read in (storage.read, lambda uri: storage.read_range(uri, 0, 1, "tag")):
            with pytest.raises(FileNotFoundError):
                read(absent)
    with pytest.raises(FileNotFoundError):
        storage.list_files("s3://no-such-bucket")
    with pytest.raises(StorageError, match="no-such-bucket"):
        storage.create("s3://no-such-bucket/new", b"")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(StorageError, match="Forbidden"):
        storage.stat(storage.join(ceph, "absent"))


@pytest.mark.faults
def test_a_whole_pass_from_radosgw_to_radosgw(ceph: str, tmp_path: Path) -> None:
    world = build_world(tmp_path / "shards", images=400, shards=4)
    shards, output = storage.join(ceph, "shards"), storage.join(ceph, "run")
    _upload_shards(world, shards)
    flags = ("--input", shards, "--output", output, *FAKE, "--unit-size", "16")
    code, out, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 0, out + err
    rows = world.prove(_download_run(output, tmp_path / "run"))
    assert len(rows) == 400
    _prove_same_rows_for_pyarrow(output)
    before = storage.list_files(caption_units(output).folder)
    code, out, err = run("caption.py", *flags, cwd=tmp_path)
    assert code == 0, out + err
    assert storage.list_files(caption_units(output).folder) == before


def test_pyarrow_alone_reads_what_was_committed(bucket: str) -> None:
    for unit in range(3):
        caption_units(bucket).commit(unit, "plan", f"run-{unit}", rows_of_writer(unit))
    _prove_same_rows_for_pyarrow(bucket)


def _upload_shards(world: World, folder: str) -> None:
    for path in sorted(world.shards.iterdir()):
        with path.open("rb") as file:
            storage.upload(file, storage.join(folder, path.name))


def _download_run(output: str, folder: Path) -> Path:
    """Copy a run's plan and results to a local folder, for the oracle."""
    for file in storage.list_files(output):
        path = folder / file.uri.removeprefix(output + "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(storage.read(file.uri))
    return folder


def _prove_same_rows_for_pyarrow(output: str) -> None:
    """Check that pyarrow's own S3 client reads the same rows as this project."""
    folder = caption_units(output).folder
    ours = pa.concat_tables(
        [caption_units(output).read(unit) for unit in sorted(caption_units(output).list_done())]
    )
    path = folder.removeprefix("s3://")
    store = _open_arrow_store()
    by_dataset = ds.dataset(path, filesystem=store, format="parquet").to_table()
    for found in (by_dataset, pq.read_table(path, filesystem=store), pq.read_table(folder)):
        assert found.replace_schema_metadata().equals(ours)


def _open_arrow_store() -> pa_fs.S3FileSystem:
    address = urlsplit(os.environ["AWS_ENDPOINT_URL"])
    return pa_fs.S3FileSystem(endpoint_override=address.netloc, scheme=address.scheme)
