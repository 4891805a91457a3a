"""The columns of a result row that tell how an image's fields ended."""

import json
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

from s4v_core.captioning.asking import FieldAnswer, ImageEnding
from s4v_core.captioning.fields import CaptionField, find_main
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.records.captions import FIELDS, MAIN_FIELD, values_column
from s4v_core.records.contract import Contract
from s4v_core.records.schema_columns import pick_values


def build_answer_columns(fields: Sequence[CaptionField], ending: ImageEnding) -> dict[str, Any]:
    """The columns of RESULT_SCHEMA that the answers fill.

    Caption, prompt, finish_reason and sampling are those of the main field; attempts and tokens
    are sums over all fields.
    """
    main = find_main(fields)
    said = ending.answers[main] if ending.answers else None
    answer = said.end.answer if said else None
    rung = said.end.rung if said else 1
    answers = [one.end.answer for one in ending.answers if one.end.answer]
    return {
        "caption": said.text or (answer.text if answer else None) if said else None,
        "status": ending.status,
        "reason": ending.reason,
        "reason_detail": _find_detail(ending),
        "quality": said.end.quality if said else None,
        "attempts": ending.attempts,
        "twin_of": ending.twin_of,
        "more_captions": list(said.end.more) or None if said else None,
        "finish_reason": answer.finish_reason if answer else None,
        "prompt_tokens": _sum(one.prompt_tokens for one in answers),
        "output_tokens": _sum(one.output_tokens for one in answers),
        "thinking_tokens": _sum(one.thinking_tokens for one in answers),
        "sampling": _dump_sampling(fields[main].samplings[rung - 1]),
    }


def build_field_columns(
    fields: Sequence[CaptionField], ending: ImageEnding, contract: Contract
) -> dict[str, Any]:
    """The columns that a run with fields has beside those of RESULT_SCHEMA: a text and, for a
    schema, the values of each field, null where it is not ok; and the account of all of them."""
    names = set(contract.schema.names)
    if FIELDS not in names:
        return {}
    columns: dict[str, Any] = {FIELDS: None}
    pairs = list(zip(fields, ending.answers, strict=True)) if ending.answers else []
    texts = {field.name: answer.text for field, answer in pairs}
    for field in fields:
        text = texts.get(field.name)
        if field.name != MAIN_FIELD:
            columns[field.name] = text
        if field.schema and values_column(field.name) in names:
            columns[values_column(field.name)] = pick_values(json.loads(field.schema), text)
    if pairs:
        account = {field.name: _describe(field, answer) for field, answer in pairs}
        columns[FIELDS] = json.dumps(account, ensure_ascii=False)
    return columns


def list_texts(row: dict[str, Any]) -> dict[str, str]:
    """The texts of a row's ok fields, by name, in their order; empty in a run without fields."""
    return {name: row[name] for name, one in read_account(row).items() if one["status"] == "ok"}


def read_account(row: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The account of each field of a row; empty if it has none."""
    found: dict[str, dict[str, Any]] = json.loads(row.get(FIELDS) or "{}")
    return found


def _describe(field: CaptionField, answer: FieldAnswer) -> dict[str, Any]:
    end = answer.end
    account: dict[str, Any] = {
        "status": end.status,
        "reason": end.reason,
        "attempts": end.attempts,
        "prompt": answer.prompt,
        "finish_reason": end.answer.finish_reason if end.answer else None,
        "prompt_tokens": end.answer.prompt_tokens if end.answer else None,
        "output_tokens": end.answer.output_tokens if end.answer else None,
        "sampling": field.samplings[end.rung - 1].model_dump(),
    }
    optional = {
        "reason_detail": end.answer.reason_detail if end.answer else None,
        "thinking_tokens": end.answer.thinking_tokens if end.answer else None,
        "rejected_text": end.answer.text if end.answer and not answer.is_ok else None,
        "more": list(end.more) or None,
    }
    return account | {name: value for name, value in optional.items() if value is not None}


def _find_detail(ending: ImageEnding) -> str | None:
    """The engine's words about the first field that it refused."""
    if ending.status != "error":
        return None
    refused = [one.end.answer for one in ending.answers if one.end.status == "error"]
    return next((one.reason_detail for one in refused if one and one.reason_detail), None)


def _sum(numbers: Iterable[int | None]) -> int | None:
    known = [number for number in numbers if number is not None]
    return sum(known) if known else None


@lru_cache(maxsize=64)
def _dump_sampling(sampling: SamplingConfig) -> str:
    return json.dumps(sampling.model_dump(), sort_keys=True)
