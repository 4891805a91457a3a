"""Checks a run's output from its plan and files, without the code that wrote them."""

import io
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def read_rows(output: Path) -> list[dict]:
    """Read all result rows, as any reader would."""
    files = sorted((output / "captions").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist()


def read_plan(output: Path) -> list[str]:
    """Ids in all parts of the plan; those that a later part renews come again."""
    parts = sorted(output.glob("plan*.parquet"))
    return [name for part in parts for name in pq.read_table(part)["image_id"].to_pylist()]


def check_rows(output: Path) -> list[dict]:
    """Check that every planned image has one row and that footers agree; return the rows."""
    planned = read_plan(output)
    rows = read_rows(output)
    found = [row["image_id"] for row in rows]
    assert sorted(found) == sorted(set(planned))
    assert len(set(found)) == len(found)
    assert {row["status"] for row in rows} <= {"ok", "rejected", "error"}
    assert all((row["reason"] is None) == (row["status"] == "ok") for row in rows)
    accounts = [
        json.loads(pq.read_schema(file).metadata[b"s4v.unit"])
        for file in (output / "captions").glob("*.parquet")
    ]
    for status in ("ok", "rejected", "error"):
        assert sum(a[status] for a in accounts) == sum(row["status"] == status for row in rows)
    return rows


def fake_caption_of(data: bytes, side: int = 336) -> str:
    """Compute the fake engine's caption of an upright image, with CLIP's resize and crop."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    width, height = image.size
    short, long = min(image.size), int(side * max(image.size) / min(image.size))
    assert short
    size = (side, long) if width <= height else (long, side)
    left, top = (size[0] - side) // 2, (size[1] - side) // 2
    scale = (width / size[0], height / size[1])
    box = (left * scale[0], top * scale[1], (left + side) * scale[0], (top + side) * scale[1])
    picture = np.asarray(image.resize((side, side), Image.Resampling.BICUBIC, box=box))
    checksum = zlib.crc32(picture.tobytes())
    return f"A fake caption of a picture of {side} by {side} pixels, checksum {checksum:08x}."


def compare_with_plan(output: Path) -> dict[str, tuple[float, float]]:
    """Planned and actual seconds of captioning (`s`) and megabytes of captions (`mb`)."""
    planned = json.loads((output / "forecast.json").read_text())
    found = json.loads((output / "stats.json").read_text())
    written = sum(path.stat().st_size for path in (output / "captions").iterdir())
    return {
        "s": (planned["total_s"] - planned["index_s"], found["wall_s"]),
        "mb": (planned["output_mb"], written / 1e6),
    }
