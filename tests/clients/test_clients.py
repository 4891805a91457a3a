"""Clients as people install them talk to the whole interface over a socket, with engine fake."""

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import photo
from tests.flow.oracle import fake_caption_of
from tests.serve.in_process import MODEL, SECRET
from tests.serve.service import data_url

ROOT = Path(__file__).resolve().parents[2]
PYTHON = Path(os.environ.get("S4V_CLIENTS_PYTHON", ROOT / ".venv-clients" / "bin" / "python"))
"""Interpreter of the environment that has the clients (requirements.txt)."""
NODE_MODULES = Path(__file__).parent / "node_modules"

PYTHON_CLIENTS = (
    *("openai", "openai_responses", "litellm", "langchain", "llama_index", "pydantic_ai"),
    "instructor",
)
NODE_CLIENTS = ("openai", "ai_sdk", "librechat")
IMAGE = photo(1)
SAID = fake_caption_of(IMAGE)

pytestmark = [pytest.mark.clients, pytest.mark.timeout(300)]


def converse(address: str, *command: str) -> dict[str, str]:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [*command, address, SECRET, MODEL, data_url(IMAGE)],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def check(found: dict[str, str]) -> None:
    assert (found["image"], found["streamed"], found["second"]) == (SAID, SAID, SAID)
    assert found["stopped"] == "A fake"
    bound = json.loads(found["bound"])
    assert bound["answer"] == SAID
    assert isinstance(bound["count"], int)


@pytest.mark.skipif(not PYTHON.exists(), reason=f"no {PYTHON}: run `make test-clients`")
@pytest.mark.parametrize("client", PYTHON_CLIENTS)
def test_a_python_client_does_all_it_can(address: str, client: str) -> None:
    check(converse(address, str(PYTHON), "-m", f"tests.clients.with_{client}"))


@pytest.mark.skipif(not NODE_MODULES.exists(), reason="no node_modules: run `make test-clients`")
@pytest.mark.parametrize("client", NODE_CLIENTS)
def test_a_node_client_does_all_it_can(address: str, client: str) -> None:
    check(converse(address, "node", f"tests/clients/with_{client}.mjs"))
