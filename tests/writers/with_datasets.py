"""Writes data sets with Hugging Face datasets, and reads captions with it. Run by the tests, in the
packages' environment."""

import json
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
from datasets import Dataset, Features, Image, List, Value

from tests.writers.calls import run_function
from tests.writers.pictures import draw_picture
from tests.writers.samples import Sample, save_samples

_COUNT = 7


def write_tables(folder: str) -> None:
    """Write Parquet as `Dataset.to_parquet` and `push_to_hub` do: with the images in it, with paths
    alone, with paths and bytes, and with a list of images in each row."""
    at = Path(folder)
    held = Features({"image": Image(), "number": Value("int64"), "path": Value("string")})
    for name, first in (("held", 0), ("mixed", 10)):
        numbers = range(first, first + _COUNT)
        images = [{"bytes": draw_picture(n, "PNG"), "path": f"{n}.png"} for n in numbers]
        if name == "mixed":
            images[::2] = [{"bytes": None, "path": p} for p in _write(at / "loose", numbers[::2])]
        paths = [f"somewhere/else/{n}.png" for n in numbers]
        rows = {"image": images, "number": list(numbers), "path": paths}
        made = Dataset.from_dict(rows, features=held)
        made.to_parquet(str(at / name / "train.parquet"))
    numbers = range(20, 20 + _COUNT)
    paths = _write(at / "pictures", numbers)
    made = Dataset.from_dict({"image": paths, "number": list(numbers)})
    made = made.cast_column("image", Image())
    made.to_parquet(str(at / "paths" / "train.parquet"))
    # push_to_hub, without the hub: it embeds the images and writes shards of these names.
    for index in range(2):
        shard = made.shard(2, index, contiguous=True).with_format("arrow")
        shard = shard.map(datasets.table.embed_table_storage, batched=True)
        shard.to_parquet(str(at / "pushed" / "data" / f"train-{index:05d}-of-00002.parquet"))
    lists = [[{"bytes": draw_picture(n + k), "path": None} for k in range(3)] for n in (30, 33)]
    rows = {"images": lists, "id": ["a", "b"]}
    made = Dataset.from_dict(
        rows, features=Features({"images": List(Image()), "id": Value("string")})
    )
    made.to_parquet(str(at / "lists" / "train.parquet"))


def write_imagefolder(folder: str, metadata: str) -> None:
    """Write the layout of imagefolder: two splits, folders, and a table of metadata in each."""
    for split, first in (("train", 0), ("test", 10)):
        numbers = range(first, first + _COUNT)
        paths = _write(Path(folder) / split / "cats", numbers)
        table = pd.DataFrame(
            {"file_name": [f"cats/{Path(path).name}" for path in paths], "number": numbers}
        )
        to = Path(folder) / split / f"metadata.{metadata}"
        if metadata == "csv":
            table.to_csv(to, index=False)
        elif metadata == "jsonl":
            table.to_json(to, orient="records", lines=True)
        else:
            table.to_parquet(to)


def _write(folder: Path, numbers: range) -> list[str]:
    folder.mkdir(parents=True)
    for number in numbers:
        (folder / f"{number}.jpg").write_bytes(draw_picture(number))
    return [str(folder / f"{number}.jpg") for number in numbers]


def read_webdataset(shards: str, to: str, cache: str) -> None:
    """Read shards of images and captions."""
    files = sorted(str(path) for path in Path(shards).glob("*.tar"))
    found = _load("webdataset", files, cache)
    found = found.cast_column(_find_image(found), Image(decode=False))
    save_samples(
        [
            Sample(row["json"]["image_id"], row[_find_image(found)]["bytes"], row["txt"])
            for row in found
        ],
        to,
    )


def read_records(shards: str, to: str, cache: str) -> None:
    """Read shards of the records of a data set, with their images."""
    files = sorted(str(path) for path in Path(shards).glob("*.tar"))
    found = _load("webdataset", files, cache).cast_column("jpg", Image(decode=False))
    save_samples(
        [
            Sample(row["__key__"], row["jpg"]["bytes"], row["txt"], int(row["json"]["id"]))
            for row in found
        ],
        to,
    )


def save_records(table: str, saved: str, lines: str, cache: str) -> None:
    """Load a table of records, save it to a disk, and write its records as JSON lines."""
    found = _load("parquet", [table], cache)
    found.save_to_disk(saved)
    with Path(lines).open("w") as sink:
        for row in found:
            sink.write(json.dumps({k: v for k, v in row.items() if v is not None}) + "\n")


def read_tables(data: str, captions: str, to: str, cache: str) -> None:
    """Read tables of images, and join the captions by the images' paths."""
    tables = sorted(Path(data).rglob("*.parquet"))
    rows = _read_captions(captions, cache)
    found = []
    for table in tables:
        images = _load("parquet", [str(table)], cache).cast_column("image", Image(decode=False))
        for row in images:
            content = row["image"]["bytes"] or Path(row["image"]["path"]).read_bytes()
            caption = rows.get(row["image"]["path"])
            found.append(Sample(row["image"]["path"], content, caption, row["number"]))
    save_samples(found, to)


def read_lists(data: str, captions: str, to: str, cache: str) -> None:
    """Read rows of several images; captions have the row's id and the image's position."""
    rows = _read_captions(captions, cache)
    images = _load("parquet", [data], cache).cast_column("images", List(Image(decode=False)))
    found = [
        Sample(key, image["bytes"], rows.get(key))
        for row in images
        for at, image in enumerate(row["images"])
        if (key := f"{row['id']}#{at}")
    ]
    save_samples(found, to)


def read_imagefolder(data: str, captions: str, to: str, cache: str) -> None:
    """Read images with their metadata, and join the captions by the path below the folder."""
    rows = _read_captions(captions, cache)
    found = []
    for split in ("train", "test"):
        images = datasets.load_dataset("imagefolder", data_dir=data, split=split, cache_dir=cache)
        for row in images.cast_column("image", Image(decode=False)):
            path = Path(row["image"]["path"])
            key = str(path.relative_to(data))
            found.append(Sample(key, path.read_bytes(), rows.get(key), row["number"]))
    save_samples(found, to)


def read_exported_folder(data: str, to: str, cache: str) -> None:
    """Read an exported folder of images with imagefolder, and the text beside each."""
    # Names that hold "train" or "test" go to splits of these names.
    splits = datasets.load_dataset("imagefolder", data_dir=data, cache_dir=cache, drop_labels=True)
    images = datasets.concatenate_datasets(list(splits.values()))
    paths = [Path(row["image"]["path"]) for row in images.cast_column("image", Image(decode=False))]
    metadata = json.loads((Path(data) / "meta_cap.json").read_text())
    found = []
    for path in paths:
        text = path.with_suffix(".txt").read_text().strip()
        assert metadata[path.stem]["caption"] == text
        found.append(Sample(path.name, path.read_bytes(), text))
    save_samples(found, to)


def _read_captions(captions: str, cache: str) -> dict[str, Any]:
    files = sorted(str(path) for path in Path(captions).glob("*.parquet"))
    rows = _load("parquet", files, cache)
    found = {row["image_id"]: row["caption"] for row in rows}
    assert len(found) == len(rows)
    return found


def _load(builder: str, files: list[str], cache: str) -> Dataset:
    return datasets.load_dataset(builder, data_files=files, split="train", cache_dir=cache)


def _find_image(found: Dataset) -> str:
    return next(name for name, kind in found.features.items() if isinstance(kind, Image))


if __name__ == "__main__":
    run_function(
        write_tables,
        write_imagefolder,
        read_webdataset,
        read_records,
        save_records,
        read_tables,
        read_lists,
        read_imagefolder,
        read_exported_folder,
    )
