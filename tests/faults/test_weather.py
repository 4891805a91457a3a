"""A store that refuses, cuts off, drops or delays answers: no data is lost or incomplete."""

import threading
import time

import pytest

from s4v_core import storage
from s4v_core.errors import StorageError
from tests.faults.proxy import FaultProxy

DATA = bytes(range(256)) * 64


@pytest.fixture
def file(bucket: str, proxy: FaultProxy) -> storage.StoredFile:
    storage.replace(storage.join(bucket, "shard.tar"), DATA)
    found = storage.stat(storage.join(bucket, "shard.tar"))
    assert found
    return found


@pytest.mark.parametrize("fault", ["refused", "dropped", "cut"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_reads_through_bad_weather_are_whole(
    proxy: FaultProxy, file: storage.StoredFile, fault: str, share: float
) -> None:
    setattr(proxy, fault, share)
    with storage.patience(60):
        for at in range(0, 3000, 100):
            assert storage.read_range(file.uri, at, 500, file.etag) == DATA[at : at + 500]
        assert storage.read(file.uri, file.etag) == DATA
    assert proxy.fault_count > 0


def test_answers_that_break_off_use_up_no_connections(
    proxy: FaultProxy, file: storage.StoredFile
) -> None:
    proxy.cut = 1.0
    for _ in range(30):
        with storage.patience(0), pytest.raises(StorageError):
            storage.read(file.uri, file.etag)
    proxy.cut = 0.0
    started = time.monotonic()
    assert storage.read(file.uri, file.etag) == DATA
    assert time.monotonic() - started < 5


def test_a_short_outage_is_waited_for_and_a_long_one_is_reported(
    proxy: FaultProxy, file: storage.StoredFile
) -> None:
    proxy.down = True
    threading.Timer(4, lambda: setattr(proxy, "down", False)).start()
    with storage.patience(60):
        assert storage.read(file.uri) == DATA
    proxy.down = True
    started = time.monotonic()
    with storage.patience(1), pytest.raises(StorageError, match=r"shard\.tar: "):
        storage.read(file.uri)
    assert time.monotonic() - started < 30


def test_a_slow_answer_is_given_up_and_requested_again(
    proxy: FaultProxy, file: storage.StoredFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s4v_core.storage.reading.SHORTEST_LIMIT_S", 1.0)
    proxy.bytes_per_s = 300
    threading.Timer(3, lambda: setattr(proxy, "bytes_per_s", 0)).start()
    started = time.monotonic()
    with storage.patience(60):
        assert storage.read_range(file.uri, 0, len(DATA), file.etag) == DATA
    assert time.monotonic() - started < 20


def test_a_write_whose_answer_is_lost_is_never_believed_to_be_lost(
    proxy: FaultProxy, bucket: str
) -> None:
    proxy.dropped, proxy.methods = 0.3, (b"PUT",)
    with storage.patience(60):
        for number in range(20):
            uri = storage.join(bucket, f"unit-{number}")
            storage.create(uri, f"{number}".encode())
            assert not storage.create(uri, b"somebody else's")
    proxy.dropped = 0
    for number in range(20):
        assert storage.read(storage.join(bucket, f"unit-{number}")) == f"{number}".encode()
    assert proxy.fault_count > 0


def test_permanent_errors_are_raised_at_once(proxy: FaultProxy, bucket: str) -> None:
    started = time.monotonic()
    with storage.patience(60), pytest.raises(FileNotFoundError):
        storage.read(storage.join(bucket, "nothing"))
    with storage.patience(60), pytest.raises(StorageError):
        storage.replace("s3://no-such-bucket-of-ours/name", b"x")
    assert time.monotonic() - started < 5


def test_an_object_that_is_replaced_is_noticed_in_bad_weather(
    proxy: FaultProxy, file: storage.StoredFile
) -> None:
    storage.replace(file.uri, DATA[::-1])
    proxy.refused = 0.3
    for _ in range(10):
        with storage.patience(60), pytest.raises(storage.SourceChangedError):
            storage.read_range(file.uri, 0, 100, file.etag)
