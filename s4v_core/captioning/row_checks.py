"""Checks of the rows of a caption run, beyond those of every run."""

import pyarrow as pa


def check_captions(table: pa.Table) -> dict[str, int]:
    """How many rows of a unit have which problem."""
    rows = table.select(["status", "caption", "image_sha256"]).to_pylist()
    ok = [row for row in rows if row["status"] == "ok"]
    return {
        "ok rows without a caption": sum(not row["caption"] for row in ok),
        "ok rows without their image's hash": sum(not row["image_sha256"] for row in ok),
    }
