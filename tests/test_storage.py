import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from s4v_core import storage
from s4v_core.errors import ConfigError, StorageError


@pytest.fixture(params=["local", "s3", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path)
    if request.param == "memory":
        return f"memory://{tmp_path.name}"
    return str(request.getfixturevalue("bucket"))


def test_create_writes_once_and_leaves_what_is_there(folder: str) -> None:
    uri = storage.join(folder, "captions", "unit-000000.parquet")
    assert storage.create(uri, b"first")
    assert not storage.create(uri, b"second")
    assert storage.read(uri) == b"first"
    [file] = storage.list_files(folder)
    assert storage.read(file.uri) == b"first"


def test_replace_puts_the_new_file_in_place(folder: str) -> None:
    uri = storage.join(folder, "run.json")
    storage.replace(uri, b"old")
    storage.replace(uri, b"new")
    assert storage.read(uri) == b"new"


def test_a_file_is_created_once_whatever_its_size(folder: str, tmp_path: Path) -> None:
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"small")
    large.write_bytes(bytes(range(256)) * (1 << 19))  # 128 MiB: in parts on S3
    uri = storage.join(folder, "exports", "x.tar")
    assert storage.create_file(uri, large)
    assert not storage.create_file(uri, small)
    found = storage.stat(uri)
    assert found is not None
    assert found.size == 128 << 20
    storage.replace_version(small, uri, found)
    assert storage.read(uri) == b"small"
    assert not storage.create_file(uri, large)
    assert storage.read(uri) == b"small"


def test_a_version_that_is_gone_is_not_replaced(folder: str) -> None:
    uri = storage.join(folder, "x")
    storage.replace(uri, b"first")
    found = storage.stat(uri)
    assert found is not None
    storage.replace(uri, b"somebody else's")
    with pytest.raises(StorageError, match="nothing was overwritten"):
        storage.replace_version(b"mine", uri, found)
    assert storage.read(uri) == b"somebody else's"


def test_receipts_know_their_own_files_alone(folder: str) -> None:
    uri = storage.join(folder, "export.json")
    assert storage.Receipts(f"{folder}/run", uri).put(b"one")
    assert not storage.Receipts(f"{folder}/run", uri).put(b"one")
    assert storage.Receipts(f"{folder}/run", uri).put(b"two")
    with pytest.raises(ConfigError, match=r"export\.json exists"):
        storage.Receipts(f"{folder}/other", uri).put(b"three")
    assert storage.read(uri) == b"two"
    storage.replace(uri, b"TWO")
    with pytest.raises(ConfigError, match=r"export\.json exists"):
        storage.Receipts(f"{folder}/run", uri).put(b"four")
    assert storage.read(uri) == b"TWO"


def test_writers_of_one_run_replace_each_others_file_at_once(folder: str) -> None:
    uri = storage.join(folder, "report.html")

    def write(writer: int) -> None:
        for number in range(10):
            storage.Receipts(f"{folder}/run", uri).put(f"{writer}: {number}".encode() * 1000)

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(4)))
    assert storage.read(uri).endswith(b": 9")


def test_a_file_that_others_write_all_the_time_is_left_alone(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = storage.join(folder, "report.html")
    place = storage.Receipts(f"{folder}/run", uri)
    place.put(b"first")

    def lose_the_race(*_: object) -> None:
        raise storage.SourceChangedError(uri, "was changed")

    monkeypatch.setattr("s4v_core.storage.receipts.replace_version", lose_the_race)
    with pytest.raises(StorageError, match="others write it all the time"):
        place.put(b"second")
    assert storage.read(uri) == b"first"


def test_a_range_is_read_exactly_and_a_short_one_is_refused(folder: str) -> None:
    uri = storage.join(folder, "shard.tar")
    storage.replace(uri, bytes(range(100)))
    assert storage.read_range(uri, 10, 5) == bytes(range(10, 15))
    with pytest.raises(StorageError):
        storage.read_range(uri, 90, 20)


def test_a_file_that_changed_since_it_was_listed_is_noticed(folder: str) -> None:
    if folder.startswith("memory"):
        pytest.skip("a memory store has no tag that survives")
    uri = storage.join(folder, "shard.tar")
    storage.replace(uri, b"a" * 100)
    file = storage.stat(uri)
    assert file is not None
    assert storage.read_range(uri, 0, 4, file.etag) == b"aaaa"
    storage.replace(uri, b"b" * 100)
    with pytest.raises(storage.SourceChangedError):
        storage.read_range(uri, 0, 4, file.etag)


def test_a_missing_file_is_distinguished_from_a_store_that_fails(folder: str) -> None:
    assert storage.stat(storage.join(folder, "nothing")) is None
    with pytest.raises(FileNotFoundError):
        storage.read(storage.join(folder, "nothing"))
    with pytest.raises(StorageError, match="Protocol not known"):
        storage.read("nosuchscheme://x")


@pytest.mark.parametrize("folder", ["local", "s3"], indirect=True)
def test_of_many_writers_exactly_one_wins(folder: str) -> None:
    for attempt in range(10):
        uri = storage.join(folder, f"unit-{attempt}")
        won: list[int] = []
        start = threading.Barrier(8)

        def write(number: int, uri: str = uri, won: list[int] = won, start=start) -> None:
            start.wait()
            if storage.create(uri, str(number).encode()):
                won.append(number)

        threads = [threading.Thread(target=write, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(won) == 1
        assert storage.read(uri) == str(won[0]).encode()


def test_braces_and_globs_expand_in_order(tmp_path: Path) -> None:
    for name in ("a.tar", "b.tar", "c.txt"):
        (tmp_path / name).touch()
    assert storage.expand(f"{tmp_path}/{{0000..0002}}.tar") == [
        f"{tmp_path}/000{n}.tar" for n in range(3)
    ]
    assert [storage.base_name(uri) for uri in storage.expand(f"{tmp_path}/*.tar")] == [
        "a.tar",
        "b.tar",
    ]


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path, monkeypatch) -> None:
    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(StorageError, match="No space left"):
        storage.create(str(tmp_path / "unit"), b"x")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("write", [storage.create, storage.replace])
def test_a_place_that_takes_nothing_is_an_error_of_the_store(
    write: Callable[[str, bytes], object],
) -> None:
    with pytest.raises(StorageError, match="/proc/nowhere"):
        write("/proc/nowhere/x", b"data")


def test_a_bucket_that_is_not_there_is_refused_before_work_begins(bucket: str) -> None:
    assert storage.refusal(storage.join(bucket, "run")) is None
    reason = storage.refusal("s3://no-such-bucket-of-ours/run")
    assert reason
    assert "NoSuchBucket" in reason


def test_an_absent_file_is_named(folder: str) -> None:
    uri = storage.join(folder, "nothing")
    with pytest.raises(FileNotFoundError, match="nothing"):
        storage.read(uri)


def _break_off(uri: str, spool: Path) -> None:
    with storage.open_to_write(uri, spool) as file:
        file.write(b"second")
        raise RuntimeError("in the middle")


@pytest.mark.parametrize("place", ["disk", "memory"])
def test_a_written_stream_appears_whole_or_not_at_all(place: str, tmp_path: Path) -> None:
    folder = str(tmp_path) if place == "disk" else f"memory://{tmp_path.name}"
    uri = storage.join(folder, "deep", "file")
    with storage.open_to_write(uri, tmp_path / "spool") as file:
        file.write(b"first")
        assert not storage.exists(uri)
    with pytest.raises(RuntimeError):
        _break_off(uri, tmp_path / "spool")
    assert storage.read(uri) == b"first"
    storage.rename(uri, storage.join(folder, "deep", "other"))
    assert [storage.base_name(f.uri) for f in storage.list_files(storage.join(folder, "deep"))] == [
        "other"
    ]


def _lose_the_reason(place: Path) -> None:
    """Write to a disk that takes no byte, and lose its error, as torch does."""
    from s4v_core.storage.streams import _note_errors

    with open("/dev/full", "wb", buffering=0) as full, _note_errors(full, str(place)) as file:
        try:
            file.write(b"x")
        except OSError:
            raise RuntimeError("inline_container.cc:672 unexpected pos") from None


def test_a_disk_that_is_full_is_named_whatever_foreign_code_makes_of_it(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"the disk is full \(/.*: No space left on device\)"):
        _lose_the_reason(tmp_path)
