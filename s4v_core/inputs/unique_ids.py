"""Image ids that are unique within a run, whatever the shards call their images."""

from collections.abc import Sequence

import pyarrow as pa


def number_repeated_ids(tables: Sequence[pa.Table]) -> tuple[list[pa.Table], int]:
    """The tables with ids that are unique over all of them, and how many images were renamed.

    An id that is taken already gets the smallest free number: `a.jpg`, `a.jpg#2`.
    """
    taken: set[str] = set()
    renamed = 0
    done = []
    for table in tables:
        ids = [str(image_id) for image_id in table["image_id"].to_pylist()]
        new = [_take_free_id(image_id, taken) for image_id in ids]
        changed = sum(before != after for before, after in zip(ids, new, strict=True))
        renamed += changed
        field = table.schema.field("image_id")
        place = table.schema.get_field_index("image_id")
        done.append(
            table.set_column(place, field, pa.array(new, pa.string())) if changed else table
        )
    return done, renamed


def _take_free_id(image_id: str, taken: set[str]) -> str:
    free, number = image_id, 1
    while free in taken:
        number += 1
        free = f"{image_id}#{number}"
    taken.add(free)
    return free
