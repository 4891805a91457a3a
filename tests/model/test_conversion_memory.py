"""Memory of the script while it converts, joins and merges checkpoints of 7B's widths."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from tests.model.large import write_large, write_large_adapter

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

SCRIPT = Path(__file__).resolve().parents[2] / "ray_jobs" / "convert.py"
LAYERS = 8  # 4 GB in bf16, of which one file is held; further layers are further files
LIMIT_KB = 4_000_000


def run_measured(*arguments: object) -> tuple[int, int]:
    """Run convert.py; returns its exit code and its peak memory in kB, mapped files included."""
    command = [sys.executable, str(SCRIPT), *map(str, arguments)]
    process = os.posix_spawn(sys.executable, command, os.environ)
    _, status, usage = os.wait4(process, 0)
    return os.waitstatus_to_exitcode(status), usage.ru_maxrss


def test_conversion_merge_and_way_back_stay_below_four_gigabytes(tmp_path: Path) -> None:
    write_large(tmp_path / "source", LAYERS)
    write_large_adapter(tmp_path / "lora", LAYERS)
    code, most = run_measured(tmp_path / "source", tmp_path / "ours")
    assert code == 0
    assert most < LIMIT_KB
    code, most = run_measured(tmp_path / "lora", tmp_path / "merged", "--base", tmp_path / "ours")
    assert code == 0
    assert most < LIMIT_KB
    shutil.rmtree(tmp_path / "merged")
    code, most = run_measured(tmp_path / "ours", tmp_path / "back")
    assert code == 0
    assert most < LIMIT_KB
