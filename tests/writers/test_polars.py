"""polars writes, s4v captions, polars reads."""

from pathlib import Path

import pytest

from tests.writers.passes import call_package, caption, check_samples, needs_packages, read_with

pytestmark = [pytest.mark.writers, needs_packages, pytest.mark.usefixtures("local_ray")]


def test_every_kind_of_table(tmp_path: Path) -> None:
    data, output = tmp_path / "in", tmp_path / "out"
    call_package("with_polars", "write_tables", folder=str(data))
    tables = sorted(path for path in data.iterdir() if path.is_file())
    assert len(tables) == 15
    rows = caption(output, tables)
    assert len(rows) == 75
    places = {"data": str(data), "captions": str(output / "captions")}
    samples = read_with("with_polars", "read_tables", tmp_path / "read", **places)
    check_samples(samples, [10 * at + n for at in range(15) for n in range(5)])
