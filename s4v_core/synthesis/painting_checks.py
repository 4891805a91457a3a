"""Checks of the rows of drawn images, beyond those of every run: the images are there, whole."""

import hashlib

import pyarrow as pa

from s4v_core.records.unit_shards import UnitShards
from s4v_core.runs.verification import RowChecks
from s4v_core.synthesis.painting import PAINTED


def build_painting_checks(output: str) -> RowChecks:
    """The checks of the run in this folder; they read every image."""
    shards = UnitShards(output, PAINTED)

    def check(table: pa.Table) -> dict[str, int]:
        rows = table.select(["image_id", "status", "shard", "image_sha256"]).to_pylist()
        ok = [row for row in rows if row["status"] == "ok"]
        found = {
            key: hashlib.sha256(content).hexdigest()
            for shard in sorted({row["shard"] for row in ok if row["shard"]})
            for key, ending, content in shards.read(shard)
            if ending == "png"
        }
        there = [row for row in ok if row["image_id"] in found]
        changed = [row for row in there if found[row["image_id"]] != row["image_sha256"]]
        return {
            "ok rows without an image": len(ok) - len(there),
            "images that are not those of their rows": len(changed),
        }

    return check
