"""Has a judge grade a file of answers, and writes its transcripts, which scorers read.

Everything below OUTPUT/judged belongs to one judge per folder, so grades of two judges never meet.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from s4v_core import storage
from s4v_core.engines.choice import choose_engine
from s4v_core.engines.settings import EngineSettings, EngineSpec
from s4v_core.errors import ConfigError
from s4v_core.evaluation.answer_files import read_answers
from s4v_core.evaluation.benchmark import Answer, Benchmark, Judging
from s4v_core.evaluation.judging.judge_task import (
    GRADES,
    NO_GRADE,
    JudgeTask,
    read_grades,
)
from s4v_core.evaluation.judging.settings import JudgeSettings
from s4v_core.evaluation.matching import mark_answers
from s4v_core.evaluation.scoring import has_grades, read_questions
from s4v_core.inputs.shard_index import clean_text
from s4v_core.runs.driver import make_run_id
from s4v_core.runs.outcome import Outcome
from s4v_core.runs.table_run import run_rows

_FOLDER = "judged"
_UNIT_ROWS = 1
"""Rows of a unit: what is not durable is asked again, and a judge costs money."""


@dataclass(frozen=True, slots=True)
class Judged:
    """The outcome of grading files of answers.

    Attributes:
        transcripts: Files of grades, one per file of answers and run of the judge; none if grades
            are missing.
        outcomes: How the runs ended; none of a file that held grades already.
    """

    transcripts: tuple[str, ...]
    outcomes: tuple[Outcome, ...]

    @property
    def exit_code(self) -> int:
        """0 if every answer has its row, whatever the judge said."""
        codes = [one.exit_code for one in self.outcomes if not _is_whole(one)]
        return next((code for code in codes if code), 1 if codes else 0)

    def as_text(self) -> str:
        """The counts of all runs, for people."""
        return "\n".join(one.as_text() for one in self.outcomes)


def judge_files(
    benchmark: Benchmark, data: str, answers: Sequence[str], output: str, judge: JudgeSettings
) -> Judged:
    """Grade each file of answers, and write one transcript per run of the judge; the same call
    again resumes. A file of grades is taken as it is.

    Raises:
        InputError: A file is missing, empty, cut off, or of another benchmark.
        ConfigError: No judge is named, the benchmark needs none, or two files have one name.
        StorageError, EngineError: A store or the judge fails as a whole; what is done stays done.
    """
    names = [_find_stem(uri) for uri in answers]
    if len(set(names)) < len(names):
        raise ConfigError(f"score-only: found files of one name ({', '.join(names)}); rename one")
    transcripts, outcomes = list[str](), list[Outcome]()
    for uri in answers:
        files, outcome = _judge_file(benchmark, data, uri, output, judge)
        outcomes += [outcome] if outcome else []
        if outcome and not _is_whole(outcome):
            return Judged((), tuple(outcomes))
        transcripts += files
    return Judged(tuple(transcripts), tuple(outcomes))


def _is_whole(outcome: Outcome) -> bool:
    counts = outcome.counts
    return not (counts.missing or counts.foreign or outcome.is_interrupted)


def _judge_file(
    benchmark: Benchmark, data: str, answers: str, output: str, judge: JudgeSettings
) -> tuple[list[str], Outcome | None]:
    """Grade a file of answers; its transcripts, and how the run ended."""
    judging = benchmark.judging
    if judging is None or judge.url is None or judge.model is None:
        need = "needs no judge" if judging is None else "needs --judge.url and --judge.model"
        raise ConfigError(f"benchmarks: {benchmark.name} {need}")
    read = read_answers(answers)
    if has_grades(read):
        return [answers], None
    questions = read_questions(benchmark, data)
    marked = mark_answers(benchmark, questions, read, answers).marked
    texts = {one.question.key: one.text for one in marked if one.text is not None}
    rows = _plan_rows(judging.build_prompts(data, questions, texts), judge.runs)
    output = storage.absolute(output)
    folder = storage.join(output, _FOLDER, benchmark.name, _name_judge(judge.model, judging))
    place = storage.join(folder, _digest(rows))
    earlier = () if judge.retry_errors else _list_earlier(folder, place)
    outcome = run_rows(
        JudgeTask(judging, judge.model, earlier, reading=make_run_id()),
        rows,
        place,
        _choose_engine(judge),
        settings={"judging": _identify(judging)},
        unit_size=_UNIT_ROWS,
        heal=judge.retry_errors,
    )
    if not _is_whole(outcome):
        return [], outcome
    order = [question.key for question in questions]
    name = f"{_find_stem(answers)}_graded-by_{_shorten(judge.model)}"
    return _write_transcripts(name, judge, place, output, order, read), outcome


def _find_stem(uri: str) -> str:
    return _shorten(storage.base_name(uri).rpartition(".")[0] or storage.base_name(uri))


def _plan_rows(prompts: Mapping[str, str], runs: int) -> list[dict[str, str]]:
    return [
        {
            "grade_id": f"{run:02d}/{key}",
            "payload": json.dumps({"question_id": key, "run": run, "prompt": clean_text(prompt)}),
        }
        for run in range(1, runs + 1)
        for key, prompt in prompts.items()
    ]


def _choose_engine(judge: JudgeSettings) -> EngineSpec:
    settings = EngineSettings(
        url=judge.url,
        max_concurrent_requests=judge.max_concurrent_requests,
        request_timeout_s=judge.request_timeout_s,
        endpoint_patience_s=judge.patience_s,
        cpus=1,
    )
    return choose_engine("openai", judge.model or "", "model", settings)


def _identify(judging: Judging) -> dict[str, Any]:
    """Everything that grades depend on beside the prompt and the judge."""
    return {
        "version": judging.version,
        "max_tokens": judging.max_tokens,
        "attempts": [[one.temperature, one.suffix] for one in judging.attempts],
        "system": judging.system,
    }


def _name_judge(model: str, judging: Judging) -> str:
    return f"{_shorten(model)}-{_digest([model, _identify(judging)])}"


def _shorten(model: str) -> str:
    """A judge's id as part of a file's name."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", model.rstrip("/").rpartition("/")[2])[:60] or "judge"


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:10]


def _list_earlier(folder: str, place: str) -> tuple[str, ...]:
    """Folders of the judge's other runs, which graded other sets of answers."""
    if not storage.is_folder(folder):
        return ()
    paths = [file.uri.split("/") for file in storage.list_files(folder)]
    names = {path[-3] for path in paths if path[-2] == GRADES.folder}
    return tuple(storage.join(folder, name) for name in sorted(names - {storage.base_name(place)}))


def _write_transcripts(
    name: str,
    judge: JudgeSettings,
    place: str,
    output: str,
    order: Sequence[str],
    answers: Sequence[Answer],
) -> list[str]:
    """Write the replies of each run, in the order of the questions."""
    at = {key: number for number, key in enumerate(order)}
    models = sorted({str(one.row["model_id"]) for one in answers if one.row.get("model_id")})
    rows = sorted(read_grades(place), key=lambda row: at[row["question_id"]])
    written = []
    for run in range(1, judge.runs + 1):
        lines = [_describe(row, judge, models) for row in rows if row["judge_run"] == run]
        receipts = storage.Receipts(output, storage.join(output, f"{name}_run-{run}.jsonl"))
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
        receipts.put(text.encode("utf-8", "replace"))
        written.append(receipts.place)
    return written


def _describe(
    row: Mapping[str, Any], judge: JudgeSettings, models: Sequence[str]
) -> dict[str, Any]:
    """A line of a transcript, in the fields that scorers know."""
    replies = row["replies"]
    return {
        "question_id": row["question_id"],
        "content": replies[-1] if replies else "",
        "model": row["judge"],
        "model_id": models,
        "asked_for": judge.model,
        "judge_run": row["judge_run"],
        "grades": row["grades"],
        "attempts": len(replies),
        "failed_replies": replies if row["reason"] == NO_GRADE else replies[:-1],
        "reason": row["reason"],
        "sampling": json.loads(row["sampling"]),
        "prompt_sha256": row["prompt_sha256"],
        "asked_at": row["asked_at"].isoformat(),
    }
