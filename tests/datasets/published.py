"""Synthetic files in the form of the three published ones: their records, paths and field sizes."""

import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

WORDS = [
    *("the", "a", "red", "small", "dog", "on", "wooden", "table", "near", "bright", "window"),
    *("with", "two", "people", "and", "naïve", "猫", "sky"),
]
DETAIL = "Write a detailed description of the given image."


def caption(chance: random.Random, chars: int) -> str:
    drawn = " ".join(chance.choices(WORDS, k=chars + 1))
    return drawn[: drawn.index(" ", chars - 1)].capitalize() + "."


def build_record(name: str, image: str | None, question: str, answer: str) -> dict[str, Any]:
    record: dict[str, Any] = {"id": name}
    if image:
        record["image"] = image
        question = f"<image>\n{question}"
    turns = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    return {**record, "conversations": turns}


def image_of(source: str, number: int) -> str:
    return {
        "coco": f"coco/train2017/{number:012d}.jpg",
        "lcs": f"llava/llava_pretrain/images/{number % 100:05d}/{number:09d}.jpg",
        "sam": f"sam/images/sa_{number}.jpg",
        "textcaps": f"share_textvqa/images/{number:016x}.jpg",
        "wikiart": f"wikiart/images/work_{number}.jpg",
        "celebrity": f"web-celebrity/images/name_{number}.jpg",
        "landmark": f"web-landmark/images/place_{number}.jpg",
        "gqa": f"gqa/images/{number}.jpg",
        "ocr_vqa": f"ocr_vqa/images/{number}.jpg",
        "vg": f"vg/VG_100K/{number}.jpg",
    }[source]


CAP100K = {
    "coco": 490,
    "lcs": 295,
    "sam": 195,
    "textcaps": 5,
    "wikiart": 5,
    "celebrity": 5,
    "landmark": 5,
}
"""Shares of the sources in 1000 captions."""


def read_captions(count: int, seed: int = 0, chars: int = 942) -> Iterator[dict[str, Any]]:
    """Captions like the 100K."""
    chance, texts = random.Random(seed), random.Random(seed)
    sources, shares = list(CAP100K), list(CAP100K.values())
    for number in range(1, count + 1):
        source = chance.choices(sources, shares)[0]
        text = caption(texts, chars)
        yield build_record(f"c{number}", image_of(source, number), DETAIL, text)


def read_mixture(count: int, details: int, seed: int = 1) -> Iterator[dict[str, Any]]:
    """A mixture like LLaVA's: `details` detailed descriptions, spread among other records."""
    chance = random.Random(seed)
    places = set(chance.sample(range(count), details))
    for number in range(count):
        if number in places:
            text = caption(chance, 609)
            yield build_record(f"{number:012d}", image_of("coco", number), DETAIL, text)
        elif number % 16 == 0:
            yield build_record(f"t{number}", None, "Tell me a story.", caption(chance, 900))
        else:
            source = ("coco", "gqa", "ocr_vqa", "vg")[number % 4]
            record = build_record(f"{number}", image_of(source, number), "What is it?", "A dog")
            record["conversations"] *= 1 + number % 6
            yield record


def write_array(path: Path, records: Iterator[dict[str, Any]], indent: int | None = 1) -> Path:
    """Write an array as `json.dump` does, without holding it."""
    with path.open("w", encoding="utf-8") as file:
        start = "[\n" if indent else "["
        for record in records:
            text = json.dumps(record, ensure_ascii=False, indent=indent)
            if indent:
                text = "\n".join(" " * indent + line for line in text.split("\n"))
            file.write(start + text)
            start = ",\n" if indent else ", "
        file.write("\n]" if indent else "]")
    return path
