"""Scores that were computed after a caption run: `OUTPUT/quality/*.parquet`."""

import pyarrow as pa

from s4v_core.records.contract import Contract, Words, result_schema

QUALITY = Contract(
    folder="quality",
    schema=result_schema(
        "image_id",
        # CLIPScore (0 to 2.5) of a CLIP, probability (0 to 1) of a SigLIP; null if not ok.
        pa.field("score", pa.float32()),
        pa.field("scorer", pa.string(), nullable=False),
        pa.field("scorer_revision", pa.string(), nullable=False),
    ),
    key="image_id",
    statistics=("image_id", "status", "reason"),
    words=Words(rows="images", made="scored", answers="scores"),
)
"""One row per image of the run, in the units of its captions; readers join by image_id. A status of
error has the reason no_caption, or why the image could not be read."""
