"""The plan of a caption run as version 0.1 wrote it."""

import json
from pathlib import Path

import pyarrow.parquet as pq

_REQUIRED = ("image_id", "unit", "uri", "container", "source")


def make_plan_old(output: Path) -> None:
    """Rewrite the plan of a run: `sidecar` for `payload`, more columns without null, `shards` for
    `inputs`, and neither kind nor key."""
    path = output / "plan.parquet"
    file = pq.ParquetFile(path)
    about = json.loads(file.schema_arrow.metadata[b"s4v.plan"])
    about["shards"] = about.pop("inputs")
    del about["kind"], about["key"]
    groups = [file.read_row_group(number) for number in range(file.num_row_groups)]
    schema = groups[0].schema
    for place, field in enumerate(schema):
        field = field.with_name("sidecar") if field.name == "payload" else field
        schema = schema.set(place, field.with_nullable(field.name not in _REQUIRED))
    schema = schema.with_metadata({b"s4v.plan": json.dumps(about).encode()})
    path.unlink()
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        for group in groups:
            table = group.rename_columns(schema.names).cast(schema)
            writer.write_table(table, row_group_size=table.num_rows)
