"""One sweep over a run's rows: lengths by source, captions over time, and rows worth a look.

Holds counts and a few places, never the rows: a run may have a million.
"""

import heapq
import io
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import PlanHead
from s4v_core.records.planned_rows import read_planned_unit

_READERS = 16
BIN_TOKENS = 16
TICK_S = 10
PICKED = 40
"""Rows of each kind that are shown."""

KINDS = ("random", "longest", "shortest", "rejected", "error")
_COLUMNS = ["status", "reason", "source", "output_tokens", "attempts", "created_at"]


@dataclass(frozen=True, slots=True, order=True)
class Pick:
    """Where a row lies: which unit, and which of its rows."""

    unit: int
    row: int


@dataclass(slots=True)
class Lengths:
    """Captions of one source: how many, and how many tokens (bins of BIN_TOKENS)."""

    rows: int = 0
    ok: int = 0
    tokens: int = 0
    bins: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class Survey:
    """The result of one sweep.

    Attributes:
        sources: Lengths by source name.
        ticks: Rows by status per TICK_S seconds since 1970.
        attempts: Rows by the number of attempts they took.
        picks: Rows to show, by kind.
    """

    sources: dict[str, Lengths] = field(default_factory=lambda: defaultdict(Lengths))
    ticks: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    attempts: Counter[int] = field(default_factory=Counter)
    picks: dict[str, list[Pick]] = field(default_factory=dict)


def survey_run(output: str, head: PlanHead) -> Survey:
    """Read the small columns of every unit that is done."""
    done = sorted(caption_units(output).list_done() & set(head.units))
    survey, chooser = Survey(), _Chooser(head.digest)
    with ThreadPoolExecutor(_READERS) as pool:
        for unit, rows in zip(
            done, pool.map(lambda u: _read_small_columns(output, u), done), strict=True
        ):
            for at, row in enumerate(rows):
                _count(survey, row)
                chooser.offer(Pick(unit, at), row)
    survey.picks = chooser.picks()
    return survey


def read_picks(
    output: str, picks: list[Pick], settings: Mapping[str, Any]
) -> Iterator[tuple[Pick, dict[str, Any], dict[str, Any]]]:
    """Each picked row, with its planned row.

    Args:
        settings: Settings of the run's plan.
    """
    units = caption_units(output, settings)
    by_unit: dict[int, list[Pick]] = defaultdict(list)
    for pick in picks:
        by_unit[pick.unit].append(pick)
    for unit, chosen in sorted(by_unit.items()):
        rows, planned = units.read(unit), read_planned_unit(output, unit)
        places = [pick.row for pick in chosen]
        yield from zip(
            chosen, rows.take(places).to_pylist(), planned.take(places).to_pylist(), strict=True
        )


def _read_small_columns(output: str, unit: int) -> list[dict[str, Any]]:
    data = io.BytesIO(storage.read(caption_units(output).uri(unit)))
    rows: list[dict[str, Any]] = pq.read_table(data, columns=_COLUMNS).to_pylist()
    return rows


def _count(survey: Survey, row: dict[str, Any]) -> None:
    lengths = survey.sources[row["source"]]
    lengths.rows += 1
    if row["status"] == "ok":
        tokens = row["output_tokens"] or 0
        lengths.ok += 1
        lengths.tokens += tokens
        lengths.bins[tokens // BIN_TOKENS] += 1
    survey.ticks[int(row["created_at"].timestamp() // TICK_S)][row["status"]] += 1
    survey.attempts[row["attempts"]] += 1


class _Chooser:
    """Keeps the longest, the shortest, and a fair draw of the rest; the same every time."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)
        self._heaps: dict[str, list[tuple[float, Pick]]] = {kind: [] for kind in KINDS}

    def offer(self, pick: Pick, row: dict[str, Any]) -> None:
        draw = self._chance.random()
        if row["status"] != "ok":
            self._keep(row["status"], draw, pick)
            return
        tokens = row["output_tokens"] or 0
        self._keep("random", draw, pick)
        self._keep("longest", tokens, pick)
        self._keep("shortest", -tokens, pick)

    def picks(self) -> dict[str, list[Pick]]:
        return {
            kind: [pick for _, pick in sorted(heap, reverse=True)]
            for kind, heap in self._heaps.items()
        }

    def _keep(self, kind: str, score: float, pick: Pick) -> None:
        heap = self._heaps[kind]
        if len(heap) < PICKED:
            heapq.heappush(heap, (score, pick))
        elif score > heap[0][0]:
            heapq.heapreplace(heap, (score, pick))
