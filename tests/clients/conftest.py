"""The whole interface behind a socket of this process, with engine fake."""

import socket
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn

from tests.serve.in_process import House


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    house = House(decode={"reduced_jpeg": False})
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(house.app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [door]})
        thread.start()
        while not server.started:
            time.sleep(0.05)
        yield f"http://127.0.0.1:{door.getsockname()[1]}/v1"
        server.should_exit = True
        thread.join()
