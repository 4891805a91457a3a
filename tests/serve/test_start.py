"""`python -m serve`: both demo endpoints until Ctrl-C."""

import os
import re
import signal
import subprocess
import sys

import httpx
import pytest

from tests.conftest import photo
from tests.perf.servers import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def test_it_gives_a_key_answers_and_ends_at_ctrl_c() -> None:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "serve", "--engine", "fake", "--port", str(port)],
        env=os.environ | {"RAY_ADDRESS": "local"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert server.stdout
    said = ""
    for line in server.stdout:
        said += line
        if line.startswith("ready: "):
            break
    assert server.poll() is None, said
    key = re.findall(r"^key: (\S+)$", said, re.M)
    for model in ("share-captioner", "sharegpt4v-7b"):
        answer = httpx.post(
            f"http://127.0.0.1:{port}/v1/caption?model={model}",
            content=photo(0),
            headers={"authorization": f"Bearer {key[0]}", "content-type": "image/jpeg"},
            timeout=60,
        )
        assert answer.status_code == 200, answer.text
        assert answer.json()["caption"].startswith("A fake caption of a picture")
    server.send_signal(signal.SIGINT)
    assert "stopping\n" in server.communicate(timeout=120)[0]
    assert server.returncode == 0
