"""Grading answers as a task of the flow: a judge's prompt becomes a row with replies and grades.

A reply without grades is asked for again; if none has any, the row is rejected and says so. What an
earlier run asked the same judge in the same words is taken from there.
"""

import hashlib
import json
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import pyarrow as pa

from s4v_core.engines.requests import Generation, Generator, Picture, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.evaluation.benchmark import Judging
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.inputs.shard_index import clean_text
from s4v_core.records.contract import Contract, Words, result_schema
from s4v_core.records.units import UnitFolder

NO_GRADE = "no_grade"
"""Reason of a row whose judge gave no grade, however often it was asked."""

GRADES = Contract(
    folder="grades",
    schema=result_schema(
        "grade_id",
        pa.field("question_id", pa.string(), nullable=False),
        pa.field("judge_run", pa.int32(), nullable=False),
        # Id that the endpoint returned with the last reply.
        pa.field("judge", pa.string()),
        pa.field("grades", pa.list_(pa.float64())),
        # All replies, in order; the last one has the grades.
        pa.field("replies", pa.list_(pa.string()), nullable=False),
        pa.field("prompt_sha256", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        # JSON: temperature and most tokens of the last request.
        pa.field("sampling", pa.string(), nullable=False),
        pa.field("asked_at", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("reason_detail", pa.string()),
    ),
    key="grade_id",
    words=Words(rows="answers", made="judged", answers="grades"),
)
"""One row per answer and run of the judge. Attempts: 0 where an earlier run had asked already."""

_OWN = ("judge", "grades", "replies", "sampling", "asked_at", "reason_detail", "status", "reason")
"""Columns that a row takes over from an earlier one."""


@dataclass(frozen=True, slots=True)
class Asked:
    """One question to a judge.

    Attributes:
        known: What an earlier run found out; None if it did not ask.
    """

    grade_id: str
    question_id: str
    run: int
    prompt: str
    known: Row | None = None

    @property
    def prompt_sha256(self) -> str:
        return hashlib.sha256(self.prompt.encode()).hexdigest()


@dataclass(frozen=True)
class JudgeTask(Task[Asked]):
    """Asks a judge for grades.

    Attributes:
        model: Id of the judge, for endpoints that return none.
        earlier: Folders of earlier runs that asked the same judge.
        reading: Changes with every process that judges, so that no worker remembers rows that were
            replaced since.
    """

    judging: Judging
    model: str
    earlier: tuple[str, ...] = ()
    reading: str = ""
    contract = GRADES

    def prepare(self, planned: dict[str, Any], content: bytes | str | None) -> Prepared[Asked]:
        asked = Asked(planned["grade_id"], **json.loads(planned["payload"]))
        known = _read_known(self.earlier, self.reading).get((asked.prompt_sha256, asked.run))
        return Prepared(replace(asked, known=known))

    async def answer(self, about: Asked, pictures: tuple[Picture, ...], engine: Generator) -> Row:
        if about.known is not None:
            return self._make_row(about, 0) | {name: about.known[name] for name in _OWN}
        row, replies = self._make_row(about, 0), list[str]()
        for number, attempt in enumerate(self.judging.attempts, 1):
            sampling = SamplingConfig(
                max_tokens=self.judging.max_tokens,
                temperature=attempt.temperature,
                seed=100 * about.run + number,
                stop_at_loops=False,
            )
            content = f"{about.question_id} {about.prompt_sha256}"
            prompt = about.prompt + attempt.suffix
            request = Request(about.grade_id, content, (), prompt, system=self.judging.system)
            found = await engine.generate(request, sampling)
            row |= self._describe_reply(found, sampling) | {"attempts": number}
            if found.text is None:
                return row | {"replies": replies}
            row["judge"] = clean_text(found.model or self.model)
            replies.append(clean_text(found.text))
            grades = self.judging.parse(found.text)
            if grades is not None:
                row |= {"status": "ok", "reason": None, "grades": list(grades)}
                break
        return row | {"replies": replies}

    def fail(self, about: Asked, reason: str) -> Row:
        return self._make_row(about, 0) | {"reason": reason}

    def _describe_reply(self, found: Generation, sampling: SamplingConfig) -> Row:
        """The columns that a reply without grades changes."""
        is_reply = found.text is not None
        about = {"temperature": sampling.temperature, "max_tokens": sampling.max_tokens}
        return {
            "sampling": json.dumps(about),
            "asked_at": datetime.now(UTC),
            "status": "rejected" if is_reply else "error",
            "reason": NO_GRADE if is_reply else found.reason,
            "reason_detail": found.reason_detail and clean_text(found.reason_detail),
        }

    def _make_row(self, about: Asked, attempts: int) -> Row:
        return {
            "grade_id": about.grade_id,
            "question_id": about.question_id,
            "judge_run": about.run,
            "judge": None,
            "grades": None,
            "replies": [],
            "prompt_sha256": about.prompt_sha256,
            "prompt": about.prompt,
            "sampling": "{}",
            "asked_at": datetime.now(UTC),
            "reason_detail": None,
            "status": "error",
            "reason": None,
            "attempts": attempts,
        }


def read_grades(folder: str) -> list[Row]:
    """All rows of a run."""
    units = UnitFolder(folder, GRADES)
    return [row for unit in sorted(units.list_done()) for row in units.read(unit).to_pylist()]


@lru_cache(maxsize=4)
def _read_known(folders: tuple[str, ...], reading: str) -> dict[tuple[str, int], Row]:
    """Rows with replies, by the hash of their prompt and the judge's run."""
    rows = [row for folder in folders for row in read_grades(folder) if row["status"] != "error"]
    return {(row["prompt_sha256"], row["judge_run"]): row for row in rows}
