"""Writes shards with webdataset, and reads captions beside images with it. Run by the tests, in the
packages' environment."""

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import webdataset as wds
from PIL import Image

from tests.writers.calls import run_function
from tests.writers.pictures import draw_picture
from tests.writers.samples import Sample, save_samples


def write_shards(pattern: str, numbers: list[int], broken: list[int], maxcount: int) -> None:
    """Write samples with fields before and behind the image; `broken` ones are no images."""
    Path(pattern).parent.mkdir(parents=True)
    with wds.ShardWriter(pattern, maxcount=maxcount, verbose=0) as sink:
        for number in numbers:
            image = b"\xff\xd8\xffno image" if number in broken else draw_picture(number)
            sink.write(
                {
                    "__key__": f"part_{number % 2}/{number:06d}",
                    "cls": number,
                    "depth.npy": np.full((2, 2), number),
                    "jpg": image,
                    "json": {"number": number, "path": "elsewhere.jpg"},
                    "txt": f"a caption of before, {number}",
                }
            )


def write_forms(folder: str) -> None:
    """Write what else TarWriter offers: encoded by it, packed, several images in a sample."""
    Path(folder).mkdir(parents=True)
    numbers = iter(range(256))

    def draw() -> Image.Image:
        return Image.open(io.BytesIO(draw_picture(next(numbers))))

    for name, compress in (("zipped.tar.gz", True), ("named.tar", "gz"), ("bz.tar.bz2", "bz2")):
        with wds.TarWriter(f"{folder}/{name}", compress=compress) as sink:
            for key in range(3):
                sink.write({"__key__": f"k{key}", "png": draw(), "cls": key})
    with wds.TarWriter(f"{folder}/encoded.tar") as sink:
        for key in range(3):
            sink.write({"__key__": f"k{key}", "jpg": draw(), "json": {"key": key}})
    with wds.TarWriter(f"{folder}/pairs.tar") as sink:
        for key in range(3):
            sink.write({"__key__": f"k{key}", "left.png": draw(), "right.png": draw(), "cls": key})
    with wds.TarWriter(f"{folder}/long.tar") as sink:
        for key in range(3):
            sink.write({"__key__": f"{'long_' * 30}é/{'key' * 40}{key}", "jpeg": draw()})


def read_beside(images: str, sidecars: str, to: str, cache: str) -> None:
    """Read shards of images and of sidecars side by side, as training does."""
    found = []
    for image, sidecar in zip(_read(images), _read(sidecars), strict=True):
        assert image["__key__"] == sidecar["__key__"]
        text = sidecar.get("txt")
        about = json.loads(sidecar["json"])
        assert (text is None) == (about["status"] != "ok")
        found.append(
            Sample(image["__key__"], image["jpg"], text and text.decode(), _read_number(image))
        )
    save_samples(found, to)


def read_fields_beside(images: str, sidecars: str, to: str, cache: str) -> None:
    """The same for samples of several images, whose captions are fields of the same names."""
    found = []
    for image, sidecar in zip(_read(images), _read(sidecars), strict=True):
        key = image["__key__"]
        assert key == sidecar["__key__"]
        for side in ("left", "right"):
            text = sidecar[f"{side}.txt"].decode()
            found.append(Sample(f"{key}.{side}", image[f"{side}.png"], text))
    save_samples(found, to)


def read_shards(shards: str, to: str, cache: str) -> None:
    """Read shards that hold images and captions."""
    found = []
    for sample in _read(shards):
        about = json.loads(sample["json"])
        assert about["caption"] == sample["txt"].decode()
        image = next(sample[ending] for ending in ("jpg", "jpeg", "png") if ending in sample)
        found.append(Sample(about["image_id"], image, sample["txt"].decode()))
    save_samples(found, to)


def read_records(shards: str, to: str, cache: str) -> None:
    """Read shards of the records of a data set, with their images."""
    found = []
    for sample in _read(shards):
        record = json.loads(sample["json"])
        assert record["conversations"][1]["value"] == sample["txt"].decode()
        found.append(
            Sample(sample["__key__"], sample["jpg"], sample["txt"].decode(), int(record["id"]))
        )
    save_samples(found, to)


def _read_number(sample: dict[str, Any]) -> int:
    number: int = json.loads(sample["json"])["number"]
    return number


def _read(folder: str) -> list[dict[str, Any]]:
    urls = sorted(str(path) for path in Path(folder).iterdir() if ".tar" in path.name)
    return list(wds.WebDataset(urls, shardshuffle=False, empty_check=False))


if __name__ == "__main__":
    run_function(
        write_shards, write_forms, read_beside, read_fields_beside, read_shards, read_records
    )
