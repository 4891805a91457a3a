"""Answers from the files that evaluation tools write: LLaVA's JSON lines, SEED-Bench's, uploads of
MM-Vet, VQAv2 and VizWiz, MMBench's sheet. Knows no questions."""

from collections.abc import Mapping
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import Answer
from s4v_core.evaluation.data_files import read_records

_TEXTS = ("text", "prediction", "pred", "response", "answer", "content")
"""Fields that may hold a reply, best first; a record of MMBench has its gold in `answer`."""
_KEYS = ("question_id", "index", "id", "image", "img_path")


def read_answers(uri: str) -> list[Answer]:
    """Every record of an answers file, repeated ones too.

    Raises:
        InputError: The file is empty or cut off, or a record lacks an id or a reply.
    """
    records = _unfold(read_records(uri))
    if not records:
        raise InputError(uri, "holds no answers")
    return [_read_answer(uri, number, row) for number, row in enumerate(records, 1)]


def _unfold(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Records of a single object {id: text} or {id: record}, as MM-Vet's tools write."""
    if len(records) != 1 or any(name in records[0] for name in _KEYS + _TEXTS):
        return records
    return [
        {**value, "question_id": key} if isinstance(value, dict) else _pair(key, value)
        for key, value in records[0].items()
    ]


def _pair(key: str, value: Any) -> dict[str, Any]:
    return {"question_id": key, "text": value}


def _read_answer(uri: str, number: int, row: Mapping[str, Any]) -> Answer:
    key = next((row[name] for name in _KEYS if row.get(name) is not None), None)
    names = [name for name in _TEXTS if name in row]
    if key is None or not names:
        lacks = "an id (question_id)" if key is None else "a reply (text)"
        place = storage.base_name(uri)
        raise InputError(uri, f"record {number} has no {lacks}; is {place} an answers file?")
    reply = row["score"] if isinstance(row.get("score"), list) else row[names[0]]
    return Answer(str(key), _as_text(reply), _as_text(row.get("prompt")), row)


def _as_text(value: Any) -> str:
    """A reply as text; null, NaN and the like are replies without words."""
    if isinstance(value, list):  # MM-Vet's grades: one per run
        return "\n".join(map(_as_text, value))
    return "" if value is None or value != value else str(value)
