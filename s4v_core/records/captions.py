"""The result rows of a caption run: the contract of `OUTPUT/captions/*.parquet`.

A run that asks for more than one text of an image, or for JSON by a schema, has further columns;
they follow from the settings of its plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pyarrow as pa

from s4v_core.records.contract import Contract, Words
from s4v_core.records.schema_columns import build_values_type
from s4v_core.records.units import UnitFolder

_FIELDS: list["pa.Field[Any]"] = [
    pa.field("image_id", pa.string(), nullable=False),
    pa.field("uri", pa.string(), nullable=False),
    pa.field("source", pa.string(), nullable=False),
    pa.field("caption", pa.string()),
    # Further captions that passed the gate, when more than one was asked for.
    pa.field("more_captions", pa.list_(pa.string())),
    pa.field("status", pa.string(), nullable=False),
    pa.field("reason", pa.string()),
    # What the engine or server said, where `reason` is its refusal.
    pa.field("reason_detail", pa.string()),
    # 0: none was needed, for what `reason` says or because an equal image has the caption.
    pa.field("attempts", pa.int32(), nullable=False),
    # Id of the equal image whose caption this is (--dedupe).
    pa.field("twin_of", pa.string()),
    # How well the caption fits the image, by the model of --quality.model: CLIPScore (0 to 2.5) of
    # a CLIP, probability (0 to 1) of a SigLIP. Null if no model was named.
    pa.field("quality", pa.float32()),
    pa.field("finish_reason", pa.string()),
    pa.field("prompt_tokens", pa.int32()),
    pa.field("output_tokens", pa.int32()),
    # Part of output_tokens: what the model thought before it answered. Null if it did not think.
    pa.field("thinking_tokens", pa.int32()),
    # Pixels, as a person sees the image: after EXIF orientation, before any resize.
    pa.field("width", pa.int32()),
    pa.field("height", pa.int32()),
    pa.field("image_sha256", pa.string()),
    pa.field("image_format", pa.string()),
    # Decisions that the decoder had to take: exif:6, alpha, cmyk, 16bit, animated:12;
    # comma-separated.
    pa.field("image_flags", pa.string()),
    pa.field("prompt", pa.string(), nullable=False),
    pa.field("model", pa.string(), nullable=False),
    pa.field("model_revision", pa.string(), nullable=False),
    pa.field("engine", pa.string(), nullable=False),
    # Settings of the engine that can change an answer, where they are not the defaults; JSON.
    pa.field("engine_settings", pa.string()),
    pa.field("sampling", pa.string(), nullable=False),
    pa.field("run_id", pa.string(), nullable=False),
    pa.field("created_at", pa.timestamp("us", tz="UTC"), nullable=False),
]

RESULT_SCHEMA = pa.schema(_FIELDS)
"""One row per image, failures included."""

CAPTIONS = Contract(
    folder="captions",
    schema=RESULT_SCHEMA,
    key="image_id",
    sums=("output_tokens", "attempts"),
    statistics=("image_id", "source", "status", "reason"),
    words=Words(rows="images", made="captioned", answers="captions"),
)


FIELDS = "fields"
"""Column with what is known of every field of a row, as a JSON object by the field's name: status,
reason, attempts, prompt, tokens, finish_reason, sampling, and the text if it was rejected."""

MAIN_FIELD = "caption"
"""Name of the field, and of the column, that readers of a single caption take."""


def values_column(field: str) -> str:
    """The column with the values of a field that has a JSON schema."""
    return f"{field}_values"


def caption_contract(fields: Sequence[Mapping[str, Any]]) -> Contract:
    """The contract of a run with these fields; CAPTIONS if there are none.

    Args:
        fields: Name, and JSON schema (or None), of each field, as the plan's settings hold them.
    """
    if not fields:
        return CAPTIONS
    added: list[pa.Field[Any]] = []
    for field in fields:
        if field["name"] != MAIN_FIELD:
            added.append(pa.field(field["name"], pa.string()))
        kind = build_values_type(field["schema"]) if field.get("schema") else None
        if kind is not None:
            added.append(pa.field(values_column(field["name"]), kind))
    added.append(pa.field(FIELDS, pa.string()))
    at = RESULT_SCHEMA.names.index("status")
    return replace(CAPTIONS, schema=pa.schema([*_FIELDS[:at], *added, *_FIELDS[at:]]))


_COLLECTED: list["pa.Field[Any]"] = [
    # Parts of the prompt; those that the paper did not publish begin with `ours.`.
    pa.field("prompt_parts", pa.string()),
    # Price of all answers of the row, in millionths of the currency of the prices.
    pa.field("cost_micro", pa.int64(), nullable=False),
    # Address that the answer came from, and the model that it names.
    pa.field("endpoint", pa.string()),
    pa.field("served_model", pa.string()),
]

COLLECTION = "collection"
"""Setting of a plan whose rows were collected from a teacher."""


def collected_contract() -> Contract:
    """The contract of a run that collects a teacher's captions."""
    at = RESULT_SCHEMA.names.index("status")
    schema = pa.schema([*_FIELDS[:at], *_COLLECTED, *_FIELDS[at:]])
    words = Words(rows="images", made="collected", answers="captions")
    sums = (*CAPTIONS.sums, "prompt_tokens", "cost_micro")
    return replace(CAPTIONS, schema=schema, sums=sums, words=words)


def contract_of(settings: Mapping[str, Any]) -> Contract:
    """The contract of a caption run, from the settings of its plan."""
    if settings.get(COLLECTION):
        return collected_contract()
    return caption_contract(settings.get("fields") or ())


def caption_units(output: str, settings: Mapping[str, Any] | None = None) -> UnitFolder:
    """The unit files of a caption run.

    Args:
        settings: Settings of the run's plan, which rows with fields cannot be read without; files
            can be listed and counted without them.
    """
    return UnitFolder(output, contract_of(settings or {}))
