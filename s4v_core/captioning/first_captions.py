"""A few rows of a run, to look at."""

from typing import Any

from s4v_core.captioning.field_rows import list_texts
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import require_plan_head


def read_first_captions(output: str, count: int) -> list[tuple[str, str]]:
    """Image id and caption (or the reason why there is none) of the first rows that are done."""
    units = caption_units(output, require_plan_head(output).settings)
    shown = list[tuple[str, str]]()
    for unit in sorted(units.list_done()):
        rows = units.read(unit).slice(0, count - len(shown)).to_pylist()
        shown += [(row["image_id"], describe_row(row)) for row in rows]
        if len(shown) == count:
            break
    return shown


def describe_row(row: dict[str, Any]) -> str:
    """A row's caption or the texts of its fields, or why there is none, with the engine's own
    words."""
    if row["status"] != "ok":
        detail = f" ({row['reason_detail']})" if row["reason_detail"] else ""
        return f"{row['status']}: {row['reason']}{detail}"
    texts = list_texts(row)
    return "; ".join(f"{k}: {v}" for k, v in texts.items()) if texts else str(row["caption"])
