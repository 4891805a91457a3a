"""The finding of a reader: an image with its caption, passed from one environment to the other."""

import base64
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Sample:
    """An image as a reader joined it with its caption.

    Attributes:
        key: Name of the image in the reader's data.
        image: The encoded image.
        caption: Its caption; None if it has none.
        number: The number that the writer stored beside the image; None if it stored none.
    """

    key: str
    image: bytes
    caption: str | None
    number: int | None = None


def save_samples(samples: Iterable[Sample], path: str) -> None:
    """Write samples as JSON lines."""
    with Path(path).open("w") as sink:
        for sample in samples:
            image = base64.b64encode(sample.image).decode()
            sink.write(json.dumps([sample.key, image, sample.caption, sample.number]) + "\n")


def load_samples(path: str) -> list[Sample]:
    """Read what `save_samples` wrote."""
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [
        Sample(key, base64.b64decode(image), caption, number)
        for key, image, caption, number in rows
    ]
