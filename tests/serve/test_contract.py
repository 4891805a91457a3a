"""The OpenAPI document is true: generated requests, right and wrong, find no answer beside it."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.serve.service import FAKE, served

pytestmark = [pytest.mark.usefixtures("local_ray"), pytest.mark.timeout(3600)]

CHECKS = "all"
EXAMPLES = 20
"""Per operation and phase; `slow` runs more."""


@pytest.mark.parametrize("examples", [EXAMPLES, pytest.param(400, marks=pytest.mark.slow)])
def test_schemathesis_finds_no_violation(tmp_path: Path, examples: int) -> None:
    guard = {"requests_per_minute": 10_000_000, "concurrent": 1000}
    with served(tmp_path, FAKE, guard=guard) as service:
        run = subprocess.run(
            [
                *(str(Path(sys.executable).parent / "st"), "run"),
                *(f"{service.address}/openapi.json", "--header"),
                f"authorization: {service.headers['authorization']}",
                *("--checks", CHECKS, "--max-examples", str(examples), "--seed", "1"),
                *("--report", "json", "--report-json-path", str(tmp_path / "report.json")),
                *("--continue-on-failure", "--no-color", "--request-timeout", "30"),
            ],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2000:]
    print(run.stdout[-3000:])  # noqa: T201
