"""pandas writes, s4v captions, pandas reads: pandas 3 here, pandas 2 beside the other packages."""

from pathlib import Path

import pytest

from tests.writers import with_pandas
from tests.writers.passes import call_package, caption, check_samples, needs_packages, read_with
from tests.writers.samples import load_samples

pytestmark = pytest.mark.usefixtures("local_ray")


def _caption_tables(tmp_path: Path) -> dict[str, str]:
    data, output = tmp_path / "in", tmp_path / "out"
    rows = caption(output, [data / name for name in with_pandas.TABLES])
    assert len(rows) == len(with_pandas.NUMBERS)
    return {"data": str(data), "captions": str(output / "captions")}


def test_every_kind_of_table(tmp_path: Path) -> None:
    with_pandas.write_tables(str(tmp_path / "in"))
    places = _caption_tables(tmp_path)
    with_pandas.read_tables(**places, to=f"{tmp_path}/read.jsonl", cache="")
    check_samples(load_samples(f"{tmp_path}/read.jsonl"), with_pandas.NUMBERS)


@pytest.mark.writers
@needs_packages
def test_every_kind_of_table_of_pandas_2(tmp_path: Path) -> None:
    call_package("with_pandas", "write_tables", folder=str(tmp_path / "in"))
    places = _caption_tables(tmp_path)
    samples = read_with("with_pandas", "read_tables", tmp_path / "read", **places)
    check_samples(samples, with_pandas.NUMBERS)
