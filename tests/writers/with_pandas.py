"""Writes tables of images with pandas, and reads captions with it. The tests call it with pandas 3
in their own process, and run it with pandas 2 in the packages' environment."""

from pathlib import Path
from typing import Any

import pandas as pd

from tests.writers.calls import run_function
from tests.writers.pictures import draw_picture
from tests.writers.samples import Sample, save_samples

_COUNT = 5
TABLES = (
    *("held.parquet", "structs.parquet", "parted", "named.parquet", "category.parquet"),
    *("named.csv", "named.tsv", "named.jsonl", "named.json", "packed.csv.gz", "arrow.parquet"),
)
NUMBERS = [10 * at + n for at in range(len(TABLES)) for n in range(_COUNT)]


def write_tables(folder: str) -> None:
    """Write each of TABLES below a folder, and the images that they name."""
    at = Path(folder)
    at.mkdir(parents=True)
    for position, name in enumerate(TABLES):
        numbers = range(10 * position, 10 * position + _COUNT)
        if name in ("held.parquet", "structs.parquet", "parted"):
            _write_images(at / name, numbers)
        else:
            _write_names(at / name, numbers)


def _write_images(path: Path, numbers: range) -> None:
    content = [draw_picture(number) for number in numbers]
    table = pd.DataFrame({"image": content, "number": numbers})
    table.index = pd.Index([f"{path.stem}-{number}" for number in numbers], name="id")
    if path.stem == "structs":
        table["image"] = [{"bytes": image, "path": None} for image in content]
    if path.stem == "parted":
        table["half"] = ["a", "b"] * 2 + ["a"]
        table.reset_index().to_parquet(path, partition_cols=["half"])
    else:
        table.to_parquet(path)


def _write_names(path: Path, numbers: range) -> None:
    names = [f"of {path.name}/é, [{number}] 100%20#.jpg" for number in numbers]
    for name, number in zip(names, numbers, strict=True):
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(draw_picture(number))
    table = pd.DataFrame({"number": numbers, "file_name": names})
    if path.name == "category.parquet":
        table["file_name"] = table["file_name"].astype("category")
    if path.name == "arrow.parquet":
        table = table.convert_dtypes(dtype_backend="pyarrow")
    if path.suffix == ".parquet":
        table.to_parquet(path)
    elif path.suffix == ".jsonl":
        table.to_json(path, orient="records", lines=True)
    elif path.suffix == ".json":
        table.to_json(path, orient="records")
    else:
        table.to_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def read_tables(data: str, captions: str, to: str, cache: str) -> None:
    """Read the tables and their images again, and merge the captions into them."""
    rows = _read_captions(captions)
    found = []
    for name in TABLES:
        table = _read(Path(data) / name).reset_index()
        key = "id" if "id" in table else "file_name"
        table[key] = table[key].astype(str)
        merged = table.merge(rows, left_on=key, right_on="image_id", validate="one_to_one")
        found += [_build_sample(Path(data), row) for row in merged.to_dict("records")]
    save_samples(found, to)


def _read(path: Path) -> pd.DataFrame:
    if path.suffix in (".parquet", ""):
        return pd.read_parquet(path)
    if path.suffix in (".json", ".jsonl"):
        return pd.read_json(path, lines=path.suffix == ".jsonl")
    return pd.read_csv(path, sep="\t" if path.suffix == ".tsv" else ",")


def _build_sample(folder: Path, row: dict[Any, Any]) -> Sample:
    image = row.get("image")
    if isinstance(image, dict):
        image = image["bytes"]
    content = image or (folder / row["file_name"]).read_bytes()
    return Sample(row["image_id"], content, row["caption"], row["number"])


def read_downloaded_tables(data: str, captions: str, to: str, cache: str) -> None:
    """Read what img2dataset wrote, and merge the captions into it."""
    table = pd.read_parquet(sorted(Path(data).glob("*.parquet"))).merge(
        _read_captions(captions), left_on="key", right_on="image_id", validate="one_to_one"
    )
    rows = table[table["caption_y"].notna()].to_dict("records")
    save_samples([Sample(r["key"], r["jpg"], r["caption_y"], r["number"]) for r in rows], to)


def _read_captions(folder: str) -> pd.DataFrame:
    return pd.read_parquet(folder, columns=["image_id", "caption"])


if __name__ == "__main__":
    run_function(write_tables, read_tables, read_downloaded_tables)
