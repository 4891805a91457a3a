"""The table of samples of a run: every conversation in tokens, with the place of its image.

It is made once per run, before any GPU is requested. Samples that cannot be used are counted,
listed and left out; the caller refuses a run with too many of them.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from s4v_core import chat, storage
from s4v_core.datasets.conversations import Conversation, Unusable
from s4v_core.datasets.joining import PlacedConversation
from s4v_core.inputs.shard_index import INDEX_SCHEMA
from s4v_core.training.data.tokens import Encoded, Encoder

SAMPLES_NAME = "samples.arrow"
_SKIPPED_NAME = "skipped.jsonl"
_BATCH_ROWS = 4096

_PLACE: list["pa.Field[Any]"] = [
    # Null for text alone.
    INDEX_SCHEMA.field(name).with_nullable(True)
    for name in ("image_id", "uri", "container", "offset", "length", "row", "etag")
]
_FIELDS: list["pa.Field[Any]"] = [
    pa.field("sample_id", pa.string(), nullable=False),
    # Token ids, BOS first; the image is one id.
    pa.field("ids", pa.list_(pa.int32()), nullable=False),
    # Whether each id carries loss.
    pa.field("learnt", pa.list_(pa.bool_()), nullable=False),
    # Number of tokens with the image expanded.
    pa.field("tokens", pa.int32(), nullable=False),
    *_PLACE,
]
_SCHEMA = pa.schema(_FIELDS)
"""One row per sample; the number of a sample is its row."""


@dataclass(frozen=True, slots=True)
class SampleCounts:
    """How many samples a run has, and how many were left out.

    Attributes:
        samples: Number of rows in the table of samples.
        skipped: Number of samples that were left out, by reason.
    """

    samples: int
    skipped: dict[str, int]

    @property
    def share_skipped(self) -> float:
        return sum(self.skipped.values()) / max(self.samples + sum(self.skipped.values()), 1)


def encode_sample(
    conversation: Conversation, template: chat.Template, encoder: Encoder
) -> Encoded | str:
    """Turn a conversation into tokens, or return the reason why nothing can be learnt from it."""
    turns = conversation.turns
    # Such a template has no place for a question: it needs an image and a single answer.
    if not template.has_questions and (conversation.image is None or len(turns) != 1):
        return f"not_{template.name}"
    image_turns = () if conversation.image_turn is None else (conversation.image_turn,)
    return encoder.encode(template.build_pieces(turns, image_turns))


def write_samples(
    output: str,
    samples: Iterator[PlacedConversation | Unusable],
    template: chat.Template,
    encoder: Encoder,
    on_samples: Callable[[int], None],
) -> SampleCounts:
    """Encode all samples and write the table below `output`; the table appears whole.

    Args:
        on_samples: Called with the number of samples after each part of them.

    Raises:
        StorageError: The store refuses writes.
    """
    count, skipped = 0, list[Unusable]()
    with tempfile.TemporaryFile() as file:
        with pa.ipc.new_file(file, _SCHEMA) as writer:
            while part := list(islice(samples, _BATCH_ROWS)):
                rows = [_encode_row(sample, template, encoder) for sample in part]
                good = [row for row in rows if not isinstance(row, Unusable)]
                skipped += [row for row in rows if isinstance(row, Unusable)]
                writer.write_batch(pa.RecordBatch.from_pylist(good, schema=_SCHEMA))
                count += len(good)
                on_samples(len(part))
        file.seek(0)
        _write_skipped(output, skipped)
        storage.upload(file, storage.join(output, SAMPLES_NAME))
    return SampleCounts(count, dict(Counter(sample.reason for sample in skipped)))


def fetch_samples(uri: str, sha256: str) -> str:
    """Local path of the table of samples, which is copied here once if it is in a store."""
    return str(storage.local_copy(uri, Path(tempfile.gettempdir()) / f"s4v-{sha256[:16]}"))


def _write_skipped(output: str, skipped: Sequence[Unusable]) -> None:
    records = ({"sample_id": sample.sample_id, "reason": sample.reason} for sample in skipped)
    lines = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    storage.replace(storage.join(output, _SKIPPED_NAME), lines.encode())


def _encode_row(
    sample: PlacedConversation | Unusable, template: chat.Template, encoder: Encoder
) -> dict[str, Any] | Unusable:
    if isinstance(sample, Unusable):
        return sample
    conversation, place = sample.conversation, sample.place
    encoded = encode_sample(conversation, template, encoder)
    if isinstance(encoded, str):
        return Unusable(conversation.sample_id, encoded)
    row = dict.fromkeys(_SCHEMA.names) | {
        "sample_id": conversation.sample_id,
        "ids": encoded.ids,
        "learnt": encoded.learnt,
        "tokens": encoded.length,
    }
    return row | ({field.name: place[field.name] for field in _PLACE} if place else {})
