"""Fixtures that several test folders use: pictures, shards, a checkpoint, one local Ray."""

import gc
import io
import logging
import os
import signal
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.lanes import mark_units


def pytest_configure() -> None:
    # A shell starts a command in the background with Ctrl-C ignored, and servers under test would
    # inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    mark_units(items)


def pytest_collection() -> None:
    gc.disable()  # what the imports leave is alive to the end: the collector need not visit it


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
"""Shared test data beside the checkout; tests that need it are skipped without it."""


def photo(seed: int, size: tuple[int, int] = (320, 240), kind: str = "JPEG") -> bytes:
    """Draw a picture with structure at all scales, always the same for the same seed."""
    chance = np.random.default_rng(seed)
    coarse = chance.integers(0, 255, (6, 8, 3), dtype=np.uint8)
    image = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    sink = io.BytesIO()
    image.save(sink, kind)
    return sink.getvalue()


def write_tar(path: Path, members: dict[str, bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def photos() -> dict[str, bytes]:
    """Forty drawn photographs, by file name."""
    return {f"photo_{n:03d}.jpg": photo(n, (200 + 7 * n, 160 + 3 * n)) for n in range(40)}


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained LLaVA-1.5 of under a million parameters."""
    from tests.model.untrained import build_untrained

    folder = tmp_path_factory.mktemp("checkpoint") / "untrained"
    build_untrained(folder)
    return folder


@pytest.fixture(scope="session")
def local_ray(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A local Ray shared by all flow tests of this process; its workers know the S3 server."""
    import ray

    from serve.front.node_variables import set_node_variables

    os.environ["S4V_SCRATCH"] = str(tmp_path_factory.mktemp("scratch"))

    os.environ["RAY_ADDRESS"] = "local"
    set_node_variables()  # the endpoints then work as on a cluster
    ray.init(
        address="local",
        num_cpus=8,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """Address of an S3 server shared by all tests."""
    with moto_server() as address:
        yield address


@contextmanager
def moto_server() -> Iterator[str]:
    """Run a moto S3 on a free port; yield its address, with credentials in the environment."""
    from moto.server import ThreadedMotoServer

    from tests.atomic_s3 import make_creation_atomic

    make_creation_atomic()
    logging.getLogger("werkzeug").setLevel(
        logging.ERROR
    )  # one log line per request would hide all others
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    address = f"http://{host}:{port}"
    settings = {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    before = {name: os.environ.get(name) for name in settings}
    os.environ.update(settings)
    try:
        yield address
    finally:
        server.stop()
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})


@pytest.fixture
def bucket(s3_server: str, request: pytest.FixtureRequest) -> str:
    """An empty bucket for this test."""
    import s3fs

    name = "b" + "".join(c for c in request.node.name.lower() if c.isalnum())[:50]
    s3fs.S3FileSystem(skip_instance_cache=True).mkdir(name)
    return f"s3://{name}"
