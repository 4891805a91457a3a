"""Passes made slow on purpose, each in another stage: the report must name that stage."""

import json
import time
from pathlib import Path

import pytest
import s3fs

from s4v_core.records.captions import caption_units
from s4v_core.runs.figures import CHANGES
from s4v_core.runs.status import read_status
from tests.conftest import photo, write_tar
from tests.faults.proxy import FaultProxy
from tests.flow.scripts import FAKE, start

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

UNIT = 16
SMALL_UNITS = ("--unit-size", f"{UNIT}", "--settings.max-num-seqs", f"{UNIT}")


def _write_images(folder: Path, count: int, size: tuple[int, int] = (40, 30)) -> Path:
    images = [photo(seed, size) for seed in range(8)]
    return write_tar(folder / "0.tar", {f"{n:04d}.jpg": images[n % 8] for n in range(count)}).parent


def _run_and_read_verdict(folder: Path, images: Path | str, output: Path | str, *more: str) -> str:
    flags = ["--input", str(images), "--output", str(output), *FAKE, *SMALL_UNITS, *more]
    out, err = (process := start("caption.py", *flags, cwd=folder)).communicate(timeout=280)
    assert process.returncode == 0, err[-3000:]
    [line] = [line for line in out.splitlines() if line.startswith("bound by ")]
    verdict = line.split()[2]
    assert line.endswith(f"faster with {CHANGES[verdict]}")
    return verdict


def test_a_slow_engine_is_named_also_while_the_pass_goes_on(tmp_path: Path) -> None:
    images, output = _write_images(tmp_path / "in", UNIT * 40), tmp_path / "out"
    flags = ["--input", str(images), "--output", str(output), *FAKE, *SMALL_UNITS]
    process = start("caption.py", *flags, "--settings.fake-latency-s", "1", cwd=tmp_path)
    deadline = time.monotonic() + 200
    while not (output / "stats.json").exists():
        assert process.poll() is None, "it ended before it wrote its figures"
        assert time.monotonic() < deadline
        time.sleep(0.1)
    status = read_status(caption_units(str(output)))
    assert status.counts.missing
    assert "bound by engine (ms per image: read " in status.as_text()
    _, err = process.communicate(timeout=200)
    assert process.returncode == 0, err[-3000:]
    assert json.loads((output / "stats.json").read_text())["bound_by"] == "engine"


def test_slow_decoding_is_named(tmp_path: Path) -> None:
    images = _write_images(tmp_path / "in", UNIT * 20, (3000, 2000))
    assert (
        _run_and_read_verdict(tmp_path, images, tmp_path / "out", "--decode.no-reduced-jpeg")
        == "decode"
    )


def test_slow_reading_is_named(bucket: str, proxy: FaultProxy, tmp_path: Path) -> None:
    images = _write_images(tmp_path / "in", UNIT * 40)
    s3fs.S3FileSystem().put(f"{images}/", f"{bucket}/in/", recursive=True)
    proxy.methods, proxy.delay_s = (b"GET",), 2.0
    assert _run_and_read_verdict(tmp_path, f"{bucket}/in", tmp_path / "out") == "read"


def test_slow_writing_is_named(bucket: str, proxy: FaultProxy, tmp_path: Path) -> None:
    images = _write_images(tmp_path / "in", UNIT * 60)
    proxy.methods, proxy.delay_s = (b"PUT",), 5.0
    assert _run_and_read_verdict(tmp_path, images, f"{bucket}/out") == "write"
