"""A durable run over rows that are at hand as a table, for any task."""

import hashlib
from collections.abc import Iterable, Mapping
from typing import Any

import pyarrow as pa

from s4v_core import storage
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import InputError
from s4v_core.flow.spec import Engines
from s4v_core.flow.task import Task
from s4v_core.records.plan import PlanHead, read_plan_head
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.schemas import UNIT_SIZE, index_schema, table_of
from s4v_core.runs.driver import Run, run_missing
from s4v_core.runs.identity import refuse_other_settings
from s4v_core.runs.outcome import Outcome


def run_rows(
    task: Task[Any],
    rows: Iterable[Mapping[str, Any]],
    output: str,
    engine: EngineSpec,
    *,
    settings: Mapping[str, Any] | None = None,
    engines: Engines | None = None,
    unit_size: int = UNIT_SIZE,
    heal: bool = False,
) -> Outcome:
    """Run a task over rows; the same call again resumes it. The arguments are those of `plan_rows`.

    Raises:
        InputError, ConfigError: As for `plan_rows`.
        StorageError, EngineError: A store or an engine fails as a whole; what is done stays done.
    """
    run = plan_rows(
        task,
        rows,
        output,
        engine,
        settings=settings,
        engines=engines,
        unit_size=unit_size,
        heal=heal,
    )
    return run_missing(run)


def plan_rows(
    task: Task[Any],
    rows: Iterable[Mapping[str, Any]],
    output: str,
    engine: EngineSpec,
    *,
    settings: Mapping[str, Any] | None = None,
    engines: Engines | None = None,
    unit_size: int = UNIT_SIZE,
    heal: bool = False,
) -> Run:
    """Plan a run of a task over rows, or find the plan of the same run.

    Args:
        rows: The key of each row, under the contract's name for it, and any columns of a planned
            row: payload (a text), source, uri and container (a file whose bytes the task gets).
        output: Folder of the run, on any fsspec URI.
        engines: Default: one.
        settings: What else identifies the run, beside its rows and its engine's model.
        heal: Do rows without an answer again.

    Raises:
        InputError: There are no rows, or two have the same key.
        ConfigError: The output holds a run of other settings.
    """
    output = storage.absolute(output)
    contract = task.contract
    table = _make_table(rows, contract.key)
    identity = {"engine": engine.name, "model": engine.model, **(settings or {})}
    identity["engine_settings"] = engine.answer_settings
    head = read_plan_head(output) or _plan(table, output, task, identity, unit_size=unit_size)
    refuse_other_settings(output, head.settings, identity | {"rows": _digest(table)})
    workers = engines or Engines(1)
    label = contract.words.answers
    return Run(output, head, contract, lambda: task, engine, workers, label, heal)


def _make_table(rows: Iterable[Mapping[str, Any]], key: str) -> pa.Table:
    schema = index_schema(key)
    complete = [dict.fromkeys(schema.names) | dict(row) for row in rows]
    return table_of(complete, schema, "rows")


def _plan(
    table: pa.Table, output: str, task: Task[Any], identity: Mapping[str, Any], unit_size: int
) -> PlanHead:
    if not table.num_rows:
        raise InputError(output, "there are no rows to run")
    digest = _digest(table)
    head = build_head(
        [table.num_rows],
        [],
        {**identity, "rows": digest},
        digest,
        kind=task.contract.folder,
        key=task.contract.key,
        unit_size=unit_size,
    )
    return write_plan(output, head, [table])


def _digest(table: pa.Table) -> str:
    """A hash of all rows and their order."""
    whole = hashlib.sha256()
    for row in table.to_pylist():
        if row["member"] is None:  # the column is newer than the digests of earlier versions
            del row["member"]
        whole.update(repr(sorted(row.items())).encode("utf-8", "surrogatepass"))
    return whole.hexdigest()
