"""Plans the input of a caption job: all of it at first, and what is new when it has grown."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pyarrow as pa

from s4v_core.captioning.checks import CheckedJob
from s4v_core.errors import InputError
from s4v_core.inputs.finding import list_shard_names
from s4v_core.inputs.indexing import INDEX_SCHEMA
from s4v_core.inputs.repeated_files import RepeatedFiles
from s4v_core.inputs.shards import Shard
from s4v_core.inputs.source_names import name_sources
from s4v_core.inputs.unique_ids import UniqueIds, hash_ids
from s4v_core.records.captions import CAPTIONS
from s4v_core.records.growth import PlannedRows
from s4v_core.records.plan import PlanHead
from s4v_core.records.plan_writing import build_head, take_first, write_part, write_plan
from s4v_core.records.row_spool import RowSpool
from s4v_core.runs.display import RowBar
from s4v_core.runs.driver import connect_for
from s4v_core.runs.identity import refuse_other_settings

_MAX_RIVALS = 3
"""Other runs that may write a part of the plan while this one compares the input with it."""


def plan_input(checked: CheckedJob) -> PlanHead:
    """The plan of a job: the one that its output holds, with a further part if the input has grown.

    Another run that was quicker wins: its plan counts.

    Raises:
        InputError: The input holds no images.
    """
    head = checked.head
    if head is None:
        return _plan_all(checked)
    if checked.listing_digest == head.listing_digest or checked.job.limit is not None:
        return head
    for _ in range(_MAX_RIVALS):
        head = _plan_growth(checked, head)
        if head.listing_digest == checked.listing_digest:
            break  # else another run was quicker, with another listing of the input
    return head


@contextmanager
def index_input(checked: CheckedJob) -> Iterator[tuple[RowSpool, list[dict[str, Any]]]]:
    """The rows of every shard (INDEX_SCHEMA) in a spool, and the shards' accounts."""
    from s4v_core.flow.shard_indexing import index_shards

    connect_for(checked.engine, checked.engines)
    number = len(checked.shards)
    with RowSpool(INDEX_SCHEMA, number) as spool, RowSpool(INDEX_SCHEMA, number) as once:
        with RowBar(f"indexing {number} shards", None) as bar:
            accounts = index_shards(checked.shards, spool, bar.advance)
        repeated = RepeatedFiles(spool.read())
        if not repeated:
            yield spool, accounts
            return
        for part, (shard, rows, dropped) in enumerate(repeated.drop(spool.read())):
            once.add(shard, part, rows)
            accounts[shard]["repeated"] += dropped
            accounts[shard]["images"] -= dropped
        yield once, accounts


def read_named(checked: CheckedJob, spool: RowSpool) -> Iterator[tuple[int, pa.Table]]:
    """Number and rows of every shard, with the sources that the job gives them."""
    job = checked.job
    for number, rows in spool.read():
        yield number, name_sources(rows, job.sources, job.source_column)


def _plan_all(checked: CheckedJob) -> PlanHead:
    job = checked.job
    with index_input(checked) as (spool, accounts):
        counts = _limit_counts(spool.input_rows, job.limit)
        ids = UniqueIds(hash_ids(rows for _, rows in spool.read())[: sum(counts)])
        head = build_head(
            counts,
            accounts,
            checked.settings,
            checked.listing_digest,
            kind=CAPTIONS.folder,
            key=CAPTIONS.key,
            unit_size=checked.unit_size,
            renamed=ids.renamed,
        )
        if not head.rows and not any(account["captioned"] for account in accounts):
            raise InputError(", ".join(job.input), "holds no images")
        named = take_first((rows for _, rows in read_named(checked, spool)), head.rows)
        written = write_plan(job.output, head, map(ids.rename, named))
    refuse_other_settings(job.output, written.settings, checked.settings)
    return written


def _plan_growth(checked: CheckedJob, head: PlanHead) -> PlanHead:
    job = checked.job
    checked = replace(checked, shards=_keep_names(checked.shards, head))
    with (
        index_input(checked) as (spool, accounts),
        RowSpool(INDEX_SCHEMA, len(checked.shards)) as new,
    ):
        planned = PlannedRows(head)
        growth = planned.compare(read_named(checked, spool), new)
        ids = UniqueIds(hash_ids(rows for _, rows in new.read()), planned.hashes)
        grown = build_head(
            growth.new_rows,
            accounts,
            head.settings,
            checked.listing_digest,
            kind=CAPTIONS.folder,
            key=CAPTIONS.key,
            unit_size=checked.unit_size,
            renamed=ids.renamed,
        )
        tables = (ids.rename(rows) for _, rows in new.read())
        return write_part(job.output, head, grown, growth.renewed, tables, growth.removed)


def _keep_names(shards: list[Shard], head: PlanHead) -> list[Shard]:
    """The shards with the names that they had in the plan: image ids are made of them."""
    known = {account["uri"]: account["name"] for account in head.inputs if account.get("name")}
    taken, kept = set(known.values()), []
    for shard in shards:
        if shard.kind == "files":
            kept.append(shard)
            continue
        name = known.get(shard.uri)
        if name is None:
            name = next(one for one in list_shard_names(shard) if one not in taken)
        taken.add(name)
        kept.append(replace(shard, name=name))
    return kept


def _limit_counts(input_rows: list[int], limit: int | None) -> list[int]:
    """Rows of each input, of which the first `limit` are left."""
    if limit is None:
        return input_rows
    ends = [0]
    for rows in input_rows:
        ends.append(min(ends[-1] + rows, limit))
    return [after - before for before, after in pairwise(ends)]
