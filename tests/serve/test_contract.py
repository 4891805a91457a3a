"""The OpenAPI document is true: no answer to generated requests, valid or not, violates it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.service import FAKE, served

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(3600)]

HOOKS = "tests.serve.contract_hooks"
ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("examples", [8, pytest.param(2000, marks=pytest.mark.slow)])
def test_no_generated_request_finds_a_violation(tmp_path: Path, examples: int) -> None:
    guard = {"concurrent": 1000}
    report = tmp_path / "report.json"
    with served(tmp_path, FAKE, guard=guard) as service:
        run = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "st"), "run"),
                *(f"{service.address}/openapi.json", "--header"),
                f"authorization: {service.headers['authorization']}",
                # Not every well-formed request can be answered; a hook checks the refusals.
                *("--checks", "all", "--exclude-checks", "positive_data_acceptance"),
                *("--max-examples", str(examples), "--continue-on-failure", "--seed", "1"),
                *("--report", "json", "--report-json-path", str(report)),
                *("--no-color", "--request-timeout", "30", "--generation-database", "none"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            env=os.environ | {"SCHEMATHESIS_HOOKS": HOOKS, "PYTHONPATH": str(ROOT)},
        )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:]
    assert json.loads(report.read_text())
    print(run.stdout[-3000:])  # noqa: T201
