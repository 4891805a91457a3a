"""Lets a judge model answer the question of a study: a durable run in the study's folder."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.analysis.preference.judge_task import PROMPT, VERDICTS, JudgePairs
from s4v_core.annotation.questions import Item
from s4v_core.engines.settings import EngineSpec
from s4v_core.records.plan import read_plan_head
from s4v_core.records.units import UnitFolder
from s4v_core.runs.outcome import Outcome
from s4v_core.runs.table_run import run_rows

_FOLDERS = "judges"
_UNIT_ROWS = 32


@dataclass(frozen=True, slots=True)
class JudgeRows:
    """The verdicts of a judge so far.

    Attributes:
        pairs: Number of pairs that it is asked about.
        rows: Result rows, by pair.
    """

    model: str
    pairs: int
    rows: dict[str, dict[str, Any]]


def judge_pairs(folder: str, items: Sequence[Item], engine: EngineSpec) -> Outcome:
    """Ask a judge about every pair of a study; the same call again resumes.

    Raises:
        ConfigError: The judge's folder holds a run with other settings.
        StorageError, EngineError: A store or the judge fails as a whole; what is done stays done.
    """
    rows = [plan_row(item) for item in items]
    settings = {"prompt": PROMPT}
    output = _find_folder(folder, engine.model)
    return run_rows(JudgePairs(), rows, output, engine, settings=settings, unit_size=_UNIT_ROWS)


def plan_row(item: Item) -> dict[str, Any]:
    """The row of a plan that asks about an item."""
    texts = {"a": item.about["a"], "b": item.about["b"]}
    payload = json.dumps(texts, ensure_ascii=False)
    return {**item.about["place"], "pair_id": item.item_id, "payload": payload}


def _find_folder(folder: str, model: str) -> str:
    """A folder of the judge's own. Different names never share one."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.")[:60] or "judge"
    digest = hashlib.sha256(model.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return storage.join(folder, _FOLDERS, f"{plain}-{digest}")


def read_judges(folder: str) -> list[JudgeRows]:
    """The verdicts of every judge of a study by their names, of unfinished runs as far as they
    are."""
    place = storage.join(folder, _FOLDERS)
    files = storage.list_files(place) if storage.is_folder(place) else []
    plans = sorted({file.uri.split(f"/{_FOLDERS}/")[-1].partition("/")[0] for file in files})
    found = []
    for name in plans:
        output = storage.join(place, name)
        head = read_plan_head(output)
        if head is not None:
            units = UnitFolder(output, VERDICTS)
            rows = [
                row for unit in sorted(units.list_done()) for row in units.read(unit).to_pylist()
            ]
            by_pair = {row["pair_id"]: row for row in rows}
            found.append(JudgeRows(head.settings["model"], head.rows, by_pair))
    return sorted(found, key=lambda judge: judge.model)
