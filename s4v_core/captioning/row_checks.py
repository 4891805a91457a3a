"""Checks of the rows of a caption run, beyond those of every run."""

import json
from collections import Counter
from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from s4v_core.captioning.field_rows import read_account
from s4v_core.captioning.schema_gate import SchemaGate
from s4v_core.records.captions import FIELDS
from s4v_core.runs.verification import RowChecks


def check_captions(table: pa.Table) -> dict[str, int]:
    """How many rows of a unit have which problem."""
    rows = table.select(["status", "caption", "image_sha256"]).to_pylist()
    ok = [row for row in rows if row["status"] == "ok"]
    return {
        "ok rows without a caption": sum(not row["caption"] for row in ok),
        "ok rows without their image's hash": sum(not row["image_sha256"] for row in ok),
    }


def build_checks(settings: Mapping[str, Any]) -> RowChecks:
    """The checks of a run with these settings: those of captions, and of every field.

    Args:
        settings: Settings of the run's plan.
    """
    fields = settings.get("fields") or ()
    schemas = {one["name"]: json.dumps(one["schema"]) for one in fields if one["schema"]}
    names = [one["name"] for one in fields]

    def check(table: pa.Table) -> dict[str, int]:
        problems = Counter(check_captions(table))
        for row in table.select(["status", *names, FIELDS]).to_pylist() if names else ():
            account = read_account(row)
            for name in names:
                is_ok = account.get(name, {}).get("status") == "ok"
                must_be_ok = is_ok or row["status"] == "ok"
                problems[f"ok fields without a text: {name}"] += must_be_ok and not row[name]
                if is_ok and name in schemas and row[name]:
                    is_wrong = SchemaGate(schemas[name]).judge(row[name], "stop") is not None
                    problems[f"answers that break the schema of {name}"] += is_wrong
        return dict(problems)

    return check
