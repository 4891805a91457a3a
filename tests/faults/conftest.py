"""Fixtures that several fault tests share."""

from collections.abc import Iterator

import pytest
import s3fs

from tests.cluster.hosts import Network, find_obstacle
from tests.faults.proxy import FaultProxy
from tests.faults.world import LARGE_IMAGES, LARGE_SHARDS, World, build_world


@pytest.fixture
def network() -> Iterator[Network]:
    if reason := find_obstacle():
        pytest.skip(reason)
    network = Network()
    yield network
    network.close()


@pytest.fixture
def proxy(s3_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    """A proxy in front of the S3 server, for this process and those that it starts."""
    found = FaultProxy(s3_server)
    monkeypatch.setenv("AWS_ENDPOINT_URL", found.address)
    s3fs.S3FileSystem.clear_instance_cache()
    yield found
    found.close()
    s3fs.S3FileSystem.clear_instance_cache()


@pytest.fixture(scope="session")
def large(tmp_path_factory: pytest.TempPathFactory) -> World:
    """The number of images that the goals for faults are stated for."""
    return build_world(tmp_path_factory.mktemp("large") / "shards", LARGE_IMAGES, LARGE_SHARDS)
