"""Writes a flat folder of image files with a `.txt` of the same name beside each.

kohya's sd-scripts (`caption_extension = ".txt"`), OneTrainer and SimpleTuner (`textfile`) load such
a folder. They take each line of a `.txt` for a caption of its own, so a caption is one line, and
further captions follow in lines of their own; sd-scripts takes the first line. `meta_cap.json` is
the metadata that sd-scripts' fine-tuning datasets want; it has each field by its name (`tags` is
one that they know).
"""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from itertools import groupby
from pathlib import Path
from tempfile import NamedTemporaryFile

from s4v_core import storage
from s4v_core.captioning.export.image_reading import ImageReader, NamedImage
from s4v_core.captioning.export.image_shards import remove_earlier

METADATA_NAME = "meta_cap.json"
_WRITERS = 16
_BATCH = 32
"""Images whose receipts are written together."""


def write_image_files(
    reader: ImageReader, place: storage.Receipts, found: dict[str, storage.StoredFile]
) -> tuple[int, int]:
    """Write the folder; what an earlier export left there and this one does not hold is removed.

    Args:
        found: Files of the earlier export.

    Returns:
        Images and files written.
    """
    images, written = 0, set[str]()
    with NamedTemporaryFile() as metadata, ThreadPoolExecutor(_WRITERS) as pool:
        for batch in _cut(reader.read()):
            files = {path: data for image in batch for path, data in _build_files(image)}
            place.add({path: storage.describe_content(data) for path, data in files.items()})
            # The threads use copies of the context, and with it the caller's patience.
            puts = [
                pool.submit(copy_context().run, place.put, data, path, is_recorded=True)
                for path, data in files.items()
            ]
            for put in puts:
                put.result()
            for image in batch:
                metadata.write(b"{\n" if images == 0 else b",\n")
                metadata.write(_build_metadata(image).encode())
                images += 1
            if found:
                written.update(files)
        metadata.write(b"\n}\n" if images else b"{}\n")
        metadata.flush()
        place.put(Path(metadata.name), METADATA_NAME)
    remove_earlier(place, found, written | {METADATA_NAME})
    return images, 2 * images + 1


def _cut(images: Iterator[NamedImage]) -> Iterator[list[NamedImage]]:
    for _, group in groupby(enumerate(images), key=lambda pair: pair[0] // _BATCH):
        yield [image for _, image in group]


def _build_files(image: NamedImage) -> tuple[tuple[str, bytes], tuple[str, bytes]]:
    lines = [" ".join(caption.split()) for caption in image.row.captions]
    text = "\n".join(lines) + "\n"
    return (f"{image.name}.{image.ending}", image.content), (f"{image.name}.txt", text.encode())


def _build_metadata(image: NamedImage) -> str:
    """An entry of the metadata: sd-scripts finds the image by its name without the ending."""
    about = {name: " ".join(text.split()) for name, text in image.row.texts.items()}
    about["caption"] = " ".join(image.row.captions[0].split())
    return f"{json.dumps(image.name)}: {json.dumps(about, ensure_ascii=False)}"
