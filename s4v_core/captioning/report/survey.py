"""One sweep over a run's rows: lengths by source, captions over time, and rows worth a look.

Holds counts, a few places and a bounded number of texts, never the rows: a run may have a million.
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
from s4v_core.captioning.contradictions import Contradiction, find_contradiction
from s4v_core.captioning.repetition import RepeatedTexts
from s4v_core.captioning.scores import Scores
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import PlanHead
from s4v_core.records.planned_rows import read_planned_unit

_READERS = 16
BIN_TOKENS = 16
TICK_S = 10
PICKED = 40
"""Rows of each kind that are shown, but for those with the lowest scores."""
PICKED_WORST = 100

KINDS = ("random", "worst", "contradicting", "longest", "shortest", "rejected", "error")
"""Kinds of rows that are shown; worst: ok rows with the lowest scores."""
BIN_QUALITY = 0.05
_COLUMNS = (
    *("image_id", "status", "reason", "source", "output_tokens", "attempts", "created_at"),
    *("caption", "more_captions", "image_sha256", "twin_of", "quality"),
)


@dataclass(frozen=True, slots=True, order=True)
class Pick:
    """Where a row lies: which unit, and which of its rows."""

    unit: int
    row: int


@dataclass(slots=True)
class Lengths:
    """Captions of one source: how many, how many tokens (bins of BIN_TOKENS), and how good (bins of
    BIN_QUALITY; only those that were scored)."""

    rows: int = 0
    ok: int = 0
    tokens: int = 0
    bins: Counter[int] = field(default_factory=Counter)
    scored: int = 0
    quality: float = 0.0
    quality_bins: Counter[int] = field(default_factory=Counter)


@dataclass(slots=True)
class Survey:
    """The result of one sweep.

    Attributes:
        sources: Lengths by source name.
        ticks: Rows by status per TICK_S seconds since 1970.
        attempts: Rows by the number of attempts they took.
        picks: Rows to show, by kind.
        contradicting: Captions that name what they deny.
        repeated: Texts that different images share.
    """

    sources: dict[str, Lengths] = field(default_factory=lambda: defaultdict(Lengths))
    ticks: dict[int, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    attempts: Counter[int] = field(default_factory=Counter)
    picks: dict[str, list[Pick]] = field(default_factory=dict)
    contradicting: int = 0
    repeated: RepeatedTexts = field(default_factory=RepeatedTexts)


def survey_run(output: str, head: PlanHead) -> Survey:
    """Read every unit that is done, one after the other."""
    done = sorted(caption_units(output).list_done() & set(head.units))
    survey, chooser, scores = Survey(), _Chooser(head.digest), Scores(output)
    with ThreadPoolExecutor(_READERS) as pool:
        for unit, rows in zip(
            done, pool.map(lambda u: _read_columns(output, u, scores), done), strict=True
        ):
            for at, row in enumerate(rows):
                is_contradicting = check_row(row) is not None
                _count(survey, row)
                survey.contradicting += is_contradicting
                chooser.offer(Pick(unit, at), row, is_contradicting)
    survey.picks = chooser.picks()
    return survey


def read_picks(
    output: str, picks: list[Pick], settings: Mapping[str, Any]
) -> Iterator[tuple[Pick, dict[str, Any], dict[str, Any]]]:
    """Each picked row, with its score, and its planned row.

    Args:
        settings: Settings of the run's plan.
    """
    units = caption_units(output, settings)
    by_unit: dict[int, list[Pick]] = defaultdict(list)
    scores = Scores(output)
    for pick in picks:
        by_unit[pick.unit].append(pick)
    for unit, chosen in sorted(by_unit.items()):
        table, planned = units.read(unit), read_planned_unit(output, unit)
        places = [pick.row for pick in chosen]
        rows = scores.fill_in(unit, table.take(places).to_pylist())
        yield from zip(chosen, rows, planned.take(places).to_pylist(), strict=True)


def check_row(row: dict[str, Any]) -> Contradiction | None:
    """The contradiction in the captions of a row that is ok."""
    if row["status"] != "ok":
        return None
    return find_contradiction([row["caption"], *(row["more_captions"] or ())])


def _read_columns(output: str, unit: int, scores: Scores) -> list[dict[str, Any]]:
    file = pq.ParquetFile(io.BytesIO(storage.read(caption_units(output).uri(unit))))
    # Files of earlier versions do not have the newest columns.
    names = [name for name in _COLUMNS if name in file.schema_arrow.names]
    rows: list[dict[str, Any]] = file.read(columns=names).to_pylist()
    return scores.fill_in(unit, [dict.fromkeys(_COLUMNS) | row for row in rows])


def _count(survey: Survey, row: dict[str, Any]) -> None:
    lengths = survey.sources[row["source"]]
    lengths.rows += 1
    if row["status"] == "ok":
        tokens = row["output_tokens"] or 0
        lengths.ok += 1
        lengths.tokens += tokens
        lengths.bins[tokens // BIN_TOKENS] += 1
        if row["twin_of"] is None:
            survey.repeated.add(row["caption"], row["image_sha256"] or row["image_id"])
        if row["quality"] is not None:
            lengths.scored += 1
            lengths.quality += row["quality"]
            lengths.quality_bins[int(row["quality"] / BIN_QUALITY)] += 1
    survey.ticks[int(row["created_at"].timestamp() // TICK_S)][row["status"]] += 1
    survey.attempts[row["attempts"]] += 1


class _Chooser:
    """Keeps the longest, the shortest, the worst, and a fair draw of the rest; the same every
    time."""

    def __init__(self, seed: str) -> None:
        self._chance = random.Random(seed)
        self._heaps: dict[str, list[tuple[float, Pick]]] = {kind: [] for kind in KINDS}

    def offer(self, pick: Pick, row: dict[str, Any], is_contradicting: bool) -> None:
        draw = self._chance.random()
        if row["status"] != "ok":
            self._keep(row["status"], draw, pick)
            return
        tokens = row["output_tokens"] or 0
        self._keep("random", draw, pick)
        self._keep("longest", tokens, pick)
        self._keep("shortest", -tokens, pick)
        if is_contradicting:
            self._keep("contradicting", draw, pick)
        if row["quality"] is not None:
            self._keep("worst", -row["quality"], pick, PICKED_WORST)

    def picks(self) -> dict[str, list[Pick]]:
        return {
            kind: [pick for _, pick in sorted(heap, reverse=True)]
            for kind, heap in self._heaps.items()
        }

    def _keep(self, kind: str, score: float, pick: Pick, most: int = PICKED) -> None:
        heap = self._heaps[kind]
        if len(heap) < most:
            heapq.heappush(heap, (score, pick))
        elif score > heap[0][0]:
            heapq.heapreplace(heap, (score, pick))
