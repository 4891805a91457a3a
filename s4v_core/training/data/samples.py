"""The table of samples of a run: every conversation in tokens, with the places of its images."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core import chat, storage
from s4v_core.datasets.conversations import Conversation, Unusable
from s4v_core.datasets.joining import PlacedConversation
from s4v_core.inputs.shard_index import INDEX_SCHEMA
from s4v_core.training.data.own_template import OwnTemplate
from s4v_core.training.data.tokens import Encoded, Encoder

SAMPLES_NAME = "samples.arrow"
VERSION = 2
"""Version of the table's columns. Version 1 had the place of a single image per sample."""

_PLACE_COLUMNS = ("image_id", "uri", "container", "offset", "length", "row", "etag")
_FIELDS: list["pa.Field[Any]"] = [
    pa.field("sample_id", pa.string(), nullable=False),
    # Token ids, BOS first; an image is one id.
    pa.field("ids", pa.list_(pa.int32()), nullable=False),
    # Whether each id carries loss.
    pa.field("learnt", pa.list_(pa.bool_()), nullable=False),
    # Number of tokens with the images expanded.
    pa.field("tokens", pa.int32(), nullable=False),
    # Places of the images in the order of their ids; empty for text alone.
    pa.field(
        "images",
        pa.list_(pa.struct([INDEX_SCHEMA.field(name) for name in _PLACE_COLUMNS])),
        nullable=False,
    ),
]
SAMPLES_SCHEMA = pa.schema(_FIELDS)
"""One row per sample; the number of a sample is its row."""

AnyTemplate = chat.Template | OwnTemplate


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


def fetch_samples(uri: str, sha256: str) -> str:
    """Local path of the table of samples, which is copied here once if it is in a store."""
    return str(storage.local_copy(uri, Path(tempfile.gettempdir()) / f"s4v-{sha256[:16]}"))


def encode_sample(
    conversation: Conversation, template: AnyTemplate, encoder: Encoder
) -> Encoded | str:
    """Turn a conversation into tokens, or return the reason why nothing can be learnt from it.

    Reasons: `not_plain` (the template has no place for its turns or images), and those of
    `Encoder.encode`.
    """
    turns, images = conversation.turns, len(conversation.images)
    # Such a template has no place for a question: it needs one image and a single answer.
    if not template.has_questions and (images != 1 or len(turns) != 1):
        return f"not_{template.name}"
    # It has no place for a system text either, and the original drops both.
    system = conversation.system if template.has_questions else None
    pieces = template.build_pieces(turns, conversation.image_turns, system)
    return encoder.encode(pieces, template.has_bos)


def encode_samples(
    samples: Sequence[PlacedConversation | Unusable], template: AnyTemplate, encoder: Encoder
) -> tuple[pa.RecordBatch, list[Unusable]]:
    """The rows of all samples that can be used, in order, and the others with their reasons."""
    skipped = list[Unusable]()
    kept = list[tuple[PlacedConversation, Encoded]]()
    for sample in samples:
        if isinstance(sample, Unusable):
            skipped.append(sample)
            continue
        conversation = sample.conversation
        encoded = encode_sample(conversation, template, encoder)
        if isinstance(encoded, str):
            skipped.append(
                Unusable(
                    conversation.sample_id,
                    encoded,
                    data=conversation.data,
                    record=conversation.record,
                )
            )
        else:
            kept.append((sample, encoded))
    return _build_batch(kept), skipped


def _build_batch(kept: Sequence[tuple[PlacedConversation, Encoded]]) -> pa.RecordBatch:
    starts = np.cumsum([0, *(len(encoded.ids) for _, encoded in kept)], dtype=np.int32)
    offsets = pa.array(starts, pa.int32())
    ids = np.fromiter((i for _, e in kept for i in e.ids), np.int32, int(starts[-1]))
    learnt = np.fromiter((flag for _, e in kept for flag in e.learnt), np.bool_, int(starts[-1]))
    places = [
        [{name: place[name] for name in _PLACE_COLUMNS} for place in sample.places]
        for sample, _ in kept
    ]
    return pa.RecordBatch.from_arrays(
        [
            pa.array([sample.conversation.sample_id for sample, _ in kept], pa.string()),
            pa.ListArray.from_arrays(offsets, pa.array(ids)),
            pa.ListArray.from_arrays(offsets, pa.array(learnt)),
            pa.array([encoded.length for _, encoded in kept], pa.int32()),
            pa.array(places, SAMPLES_SCHEMA.field("images").type),
        ],
        schema=SAMPLES_SCHEMA,
    )
