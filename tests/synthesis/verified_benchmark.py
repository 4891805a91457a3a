"""A benchmark of drawn photographs, as the stage benchmark leaves it, for people to verify."""

import json
from pathlib import Path

from tests.conftest import photo


def write_benchmark(output: Path, count: int, start: int = 0) -> Path:
    """Write the benchmark of a synthesis; returns its folder."""
    folder = output / "benchmark"
    lines = []
    for number in range(start, start + count):
        image = folder / "images" / "color" / f"{number}.jpg"
        image.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(photo(number))
        row = {"question_id": f"color-{number}", "image": f"color/{number}.jpg"}
        row |= {"question": f"What is {number}?", "answer": f"It is <b>red</b> {number}."}
        row |= {"ability": "color", "source": "generated", "keywords": [["red", "big"], ["yes"]]}
        lines.append(json.dumps(row | {"verified": False}) + "\n")
    (folder / "keywords.jsonl").write_text("".join(lines))
    return folder
