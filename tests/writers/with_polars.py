"""Writes tables of images with polars, and reads captions with it. Run by the tests, in the
packages' environment."""

import json
from pathlib import Path
from typing import Any

import polars as pl

from tests.writers.calls import run_function
from tests.writers.pictures import draw_picture
from tests.writers.samples import Sample, save_samples

_COUNT = 5
_NAMES = ("held.parquet", "structs.parquet", "named.parquet", "category.parquet", "enum.parquet")
_TEXTS = ("named.csv", "named.tsv", "named.ndjson", "named.json", "lists.parquet")
_PACKED = (
    "snappy.parquet",
    "lz4.parquet",
    "gzip.parquet",
    "brotli.parquet",
    "uncompressed.parquet",
)


def write_tables(folder: str) -> None:
    """Write each kind of table to a folder, and the images that they name."""
    at = Path(folder)
    at.mkdir(parents=True)
    for position, name in enumerate((*_NAMES, *_TEXTS, *_PACKED)):
        numbers = range(10 * position, 10 * position + _COUNT)
        _write(_build_table(at / name, numbers), at / name)


def _build_table(path: Path, numbers: range) -> pl.DataFrame:
    if path.stem in ("held", "structs") or path.name in _PACKED:
        content = [draw_picture(number) for number in numbers]
        ids = [f"{path.stem}-{number}" for number in numbers]
        table = pl.DataFrame({"id": ids, "image": content, "number": numbers})
        if path.stem == "structs":
            named = pl.lit(None, pl.String).alias("path")
            table = table.with_columns(image=pl.struct(pl.col("image").alias("bytes"), named))
        return table
    names = [f"of {path.name}/{number} \"é\", 'x'.jpg" for number in numbers]
    for name, number in zip(names, numbers, strict=True):
        (path.parent / name).parent.mkdir(exist_ok=True)
        (path.parent / name).write_bytes(draw_picture(number))
    table = pl.DataFrame({"number": numbers, "path": names})
    if path.stem == "category":
        return table.with_columns(pl.col("path").cast(pl.Categorical))
    if path.stem == "enum":
        return table.with_columns(pl.col("path").cast(pl.Enum(names)))
    if path.stem == "lists":
        images = [[name] for name in names]
        return pl.DataFrame({"id": names, "images": images, "number": numbers})
    return table


def _write(table: pl.DataFrame, path: Path) -> None:
    if path.suffix == ".parquet":
        packing: Any = path.stem if path.name in _PACKED else "zstd"
        table.write_parquet(path, compression=packing, row_group_size=2)
    elif path.suffix == ".ndjson":
        table.write_ndjson(path)
    elif path.suffix == ".json":
        table.write_json(path)
    else:
        table.write_csv(path, separator="\t" if path.suffix == ".tsv" else ",")


def read_tables(data: str, captions: str, to: str, cache: str) -> None:
    """Read the tables and their images again, and join the captions with them."""
    rows = _read_captions(captions)
    found = []
    for name in (*_NAMES, *_TEXTS, *_PACKED):
        table = _read(Path(data) / name)
        key = "id" if "id" in table.columns else "path"
        ending = "#0" if name == "lists.parquet" else ""
        table = table.with_columns(image_id=pl.col(key).cast(pl.String) + ending)
        joined = table.join(rows, on="image_id", validate="1:1")
        found += [_build_sample(Path(data), row) for row in joined.to_dicts()]
    save_samples(found, to)


def _read(path: Path) -> pl.DataFrame:
    if path.suffix == ".parquet":
        return pl.read_parquet(path)
    if path.suffix == ".ndjson":
        return pl.read_ndjson(path)
    if path.suffix == ".json":
        return pl.read_json(path)
    return pl.read_csv(path, separator="\t" if path.suffix == ".tsv" else ",")


def _build_sample(folder: Path, row: dict[str, Any]) -> Sample:
    image = row.get("image")
    if isinstance(image, dict):
        image = image["bytes"]
    name = row["images"][0] if "images" in row else row.get("path")
    content = image or (folder / name).read_bytes()
    return Sample(row["image_id"], content, row["caption"], row["number"])


def read_downloaded_files(data: str, captions: str, to: str, cache: str) -> None:
    """Read what img2dataset wrote as files, and join the captions by their paths."""
    at = Path(data)
    paths = [str(path.relative_to(at)) for path in at.rglob("*.jpg")]
    joined = pl.DataFrame({"image_id": paths}).join(_read_captions(captions), on="image_id")
    found = []
    for row in joined.to_dicts():
        path = at / row["image_id"]
        number = json.loads(path.with_suffix(".json").read_text())["number"]
        found.append(Sample(row["image_id"], path.read_bytes(), row["caption"], number))
    save_samples(found, to)


def read_downloaded_tables(data: str, captions: str, to: str, cache: str) -> None:
    """Read what img2dataset wrote as Parquet, and join the captions with it."""
    table = pl.read_parquet(f"{data}/*.parquet").drop("caption")
    rows = _read_captions(captions)
    joined = table.join(rows, left_on="key", right_on="image_id", validate="1:1")
    rows = joined.drop_nulls("caption")
    save_samples(
        [Sample(r["key"], r["jpg"], r["caption"], r["number"]) for r in rows.to_dicts()], to
    )


def _read_captions(folder: str) -> pl.DataFrame:
    return pl.read_parquet(f"{folder}/*.parquet").select("image_id", "caption")


if __name__ == "__main__":
    run_function(write_tables, read_tables, read_downloaded_files, read_downloaded_tables)
