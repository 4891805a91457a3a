"""A spot notice becomes a drain that Ray Train sees. The metadata service of AWS is played here."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tests.cluster.head import driver_variables, head_node

ROOT = Path(__file__).resolve().parents[2]

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

# A node that is drained ends when it has nothing to do, so an actor keeps it.
DRIVER = """
import json, time, ray
ray.init(log_to_driver=False)
class Busy:
    def work(self): pass
busy = ray.remote(num_cpus=1)(Busy).remote()
ray.get(busy.work.remote())
print("ready", flush=True)
while not (found := ray._private.state.state.get_draining_nodes()):
    time.sleep(0.2)
print(json.dumps(found), flush=True)
"""


class _Metadata(ThreadingHTTPServer):
    """Answers like AWS's metadata service in its second version.

    Attributes:
        notice: The notice; None as long as there is none.
        asked: Number of questions for it.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.notice: dict[str, str] | None = None
        self.asked = 0


class _Handler(BaseHTTPRequestHandler):
    server: _Metadata

    def do_PUT(self) -> None:
        has_ttl = "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
        is_token = self.path == "/latest/api/token" and has_ttl
        self._answer(*((200, "a-token") if is_token else (400, "")))

    def do_GET(self) -> None:
        if self.headers.get("X-aws-ec2-metadata-token") != "a-token":
            self._answer(401, "")
            return
        assert self.path == "/latest/meta-data/spot/instance-action"
        self.server.asked += 1
        notice = self.server.notice
        self._answer(*((200, json.dumps(notice)) if notice else (404, "")))

    def _answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[_Metadata]:
    server = _Metadata()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


def test_a_notice_drains_the_node(metadata: _Metadata, tmp_path: Path) -> None:
    with head_node(cpus=1) as variables:
        environment = os.environ | driver_variables(variables)
        driver = _start([sys.executable, "-c", DRIVER], environment)
        assert driver.stdout
        assert driver.stdout.readline() == "ready\n"
        address = f"http://127.0.0.1:{metadata.server_port}"
        own = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": address, "TMPDIR": str(tmp_path)}
        command = [sys.executable, str(ROOT / "cluster" / "spot_notice.py"), variables["GCS"]]
        watch = _start(command, environment | own)
        try:
            _wait_for_questions(metadata, 2, watch)
            assert driver.poll() is None  # no notice, no drain
            assert _start(command, environment | own).wait(timeout=30) == 0  # one watch is enough
            ends = datetime.now(UTC) + timedelta(seconds=120)
            metadata.notice = {"action": "terminate", "time": ends.strftime("%Y-%m-%dT%H:%M:%SZ")}
            out, _ = watch.communicate(timeout=60)
            [(node_id, deadline_ms)] = json.loads(driver.stdout.readline()).items()
            assert out.strip() == f"drained {node_id}"
            assert abs(deadline_ms / 1000 - ends.timestamp()) <= 1
        finally:
            for process in (watch, driver):
                if process.poll() is None:
                    process.kill()


def _start(command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True)


def _wait_for_questions(
    metadata: _Metadata, count: int, watch: subprocess.Popen[str], limit_s: float = 60
) -> None:
    deadline = time.monotonic() + limit_s
    while metadata.asked < count:
        assert watch.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.2)
