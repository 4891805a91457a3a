"""Samples that a run goes on without: those that the user names, remembered with the run.

They are named by sample id, in files of one id a line or of one JSON object a line, as the run
itself writes them when it stops.
"""

import json
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s4v_core import storage
from s4v_core.errors import ConfigError
from s4v_core.training.stage import TrainStage

LEFT_OUT_NAME = "left-out.jsonl"
STOPPED = "stopped"
"""Folder below the output of a run with the samples of the steps that it stopped at."""


def record_left_out(job: TrainStage, samples: str) -> frozenset[int]:
    """Numbers of the samples that the job, or an earlier start of its run, leaves out.

    Args:
        samples: Local path of the table of samples.

    Raises:
        ConfigError: A file cannot be read, or names a sample that the run does not have.
    """
    uri = storage.join(job.output, LEFT_OUT_NAME)
    known = list(_read_ids(uri)) if storage.exists(uri) else []
    found = {sample_id: None for sample_id in known}
    for file in job.leave_out:
        found |= {sample_id: None for sample_id in _read_named(file)}
    numbers = _find_numbers(samples, list(found))
    if len(found) > len(known):
        lines = (json.dumps({"sample_id": one}, ensure_ascii=False) + "\n" for one in found)
        storage.replace(uri, "".join(lines).encode())
    return numbers


def write_stopped(output: str, step: int, samples: str, lost: Sequence[tuple[int, str]]) -> str:
    """Write the samples for which a run stopped in a step, with their reasons; returns the URI.

    Args:
        step: Number of the step, from 1.
        samples: Local path of the table of samples.
        lost: Number and reason of each sample.
    """
    ids = read_sample_ids(samples, [number for number, _ in lost])
    records = (
        {"sample_id": sample_id, "step": step, "reason": reason}
        for sample_id, (_, reason) in zip(ids, lost, strict=True)
    )
    uri = storage.join(output, STOPPED, f"step-{step:08d}.jsonl")
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    storage.replace(uri, lines.encode())
    return uri


def read_sample_ids(samples: str, numbers: Sequence[int]) -> list[str]:
    """The ids of these rows of the table of samples."""
    with pa.memory_map(samples) as file:
        column = pa.ipc.open_file(file).read_all()["sample_id"]
        return [str(one) for one in column.take(np.array(numbers, np.int64)).to_pylist()]


def _read_named(file: str) -> list[str]:
    try:
        return list(_read_ids(file))
    except FileNotFoundError:
        raise ConfigError(
            f"leave_out: no such file: {file}; allowed are files of one sample id a line"
        ) from None


def _read_ids(uri: str) -> Iterator[str]:
    text = storage.read(uri).decode("utf-8-sig", "replace")
    for line in filter(None, map(str.strip, text.split("\n"))):
        yield _read_id(uri, line)


def _read_id(uri: str, line: str) -> str:
    if not line.startswith("{"):
        return line
    try:
        record: Any = json.loads(line)
        return str(record["sample_id"])
    except (ValueError, KeyError):
        raise ConfigError(
            f'leave_out: {uri}: found {line[:80]!r}, allowed a sample id or {{"sample_id": "..."}} '
            "in each line"
        ) from None


def _find_numbers(samples: str, ids: list[str]) -> frozenset[int]:
    if not ids:
        return frozenset()
    with pa.memory_map(samples) as file:
        column = pa.ipc.open_file(file).read_all()["sample_id"]
        wanted = pa.array(ids, pa.string())
        unknown = pc.filter(wanted, pc.invert(pc.is_in(wanted, value_set=column)))
        if len(unknown):
            raise ConfigError(
                f"leave_out: found {unknown[0].as_py()!r}, which is no sample of this run; allowed "
                "are the ids of its data"
            )
        numbers = np.flatnonzero(pc.is_in(column, value_set=wanted).to_numpy(zero_copy_only=False))
    return frozenset(map(int, numbers))
