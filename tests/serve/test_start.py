"""`python -m serve`: both demo endpoints until Ctrl-C."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import httpx
import psutil
import pytest

from s4v_core.errors import ConfigError
from serve.__main__ import main, refuse_unusable_port
from tests.conftest import photo
from tests.perf.servers import free_port


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize("shares", [False, True])
def test_a_port_that_is_taken_is_refused_in_one_sentence(host: str, shares: bool) -> None:
    """Serve's proxy shares its port (SO_REUSEPORT), so that a second server could start."""
    with socket.socket() as other:
        if shares:
            other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        other.bind((host, 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port: {port} cannot be used .*already in use"):
            refuse_unusable_port(port)
    refuse_unusable_port(port)


def test_a_port_is_free_again_right_after_its_connections_ended() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            server.accept()[0].close()  # the side that closes first waits in TIME_WAIT
    refuse_unusable_port(port)


@pytest.mark.parametrize("port", [80_000, 65_536, 0, -1])
def test_a_port_that_does_not_exist_is_refused_in_one_sentence(port: int) -> None:
    with pytest.raises(ConfigError, match=f"port: found {port}, allowed 1 to 65535"):
        refuse_unusable_port(port)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "found no application with args"),
        ("[]", "found no application with args"),
        ("3", "found no application with args"),
        ("applications: []", "found no application with args"),
        ("applications: [{name: s4v}]", "found no application with args"),
        ("applications: [{args: 3}]", "found no application with args"),
        ("applications: [{args: {}, deployments: [3]}]", "found no application with args"),
        ("a: [\n", "while parsing"),
        ("a: \x00", "unacceptable character"),
        ("\udcff\udcfe", "decode"),
    ],
)
def test_a_file_without_an_application_ends_the_command_with_one_sentence(
    tmp_path: Path, text: str, problem: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "config.yaml").write_bytes(text.encode("utf-8", "surrogateescape"))
    for more in ([], ["--self-check"]):
        assert main(["--config", str(tmp_path / "config.yaml"), *more]) == 2
        said = capsys.readouterr()
        assert said.out == ""
        assert said.err.startswith("error: ")
        assert problem in said.err
        assert said.err.count("\n") == 1


def test_the_self_check_counts_the_numbers_of_user_config(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = "{id: a, path: demo, engine: fake}"
    live = "[{name: Ingress, user_config: {guard: {requests_per_minute: 77}}}]"
    text = f"applications: [{{args: {{models: [{model}]}}, deployments: {live}}}]"
    (tmp_path / "config.yaml").write_text(text)
    assert main(["--config", str(tmp_path / "config.yaml"), "--self-check"]) == 0
    assert "rate: 77 requests a minute" in capsys.readouterr().out
    (tmp_path / "config.yaml").write_text(text.replace("77", "0"))
    assert main(["--config", str(tmp_path / "config.yaml"), "--self-check"]) == 2
    assert "requests_per_minute: found 0" in capsys.readouterr().err


def test_the_command_sets_rays_variables_before_it_imports_ray() -> None:
    """Ray reads them on import."""
    code = "import sys, serve.__main__; print([m for m in ('ray', 'vllm') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.slow
@pytest.mark.timeout(400)
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
    assert [line.partition(":")[0] for line in said.splitlines()[-2:]] == ["key", "ready"]
    assert _list_open_ports(server.pid) == set()
    second = subprocess.run(
        [sys.executable, "-m", "serve", "--engine", "fake", "--port", str(port)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert second.returncode == 2
    assert second.stderr.startswith(f"error: port: {port} cannot be used")
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


def _list_open_ports(pid: int) -> set[int]:
    """List the ports of a process and its children that other machines could reach, but for those
    at which Serve's replicas call each other: Ray opens them on all addresses, without a switch."""
    server = psutil.Process(pid)
    found = set[int]()
    for process in (server, *server.children(recursive=True)):
        if process.cmdline()[:1] and process.cmdline()[0].startswith("ray::ServeReplica"):
            continue
        for connection in process.net_connections("tcp"):
            local = connection.laddr
            is_local = local and local.ip in ("127.0.0.1", "::1", "::ffff:127.0.0.1")
            if connection.status == psutil.CONN_LISTEN and not is_local:
                found.add(local.port)
    return found
