"""Conversations and images of a job -> one table of samples, in tokens, with where each image lies.

Made once per run, before any GPU is asked for. What cannot be used is counted, listed and left
out; a run with too much of it does not start.
"""

import json
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa

from s4v_core import chat, storage
from s4v_core.datasets.conversations import Conversation, Unusable, read_conversations
from s4v_core.errors import InputError
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.inputs.shards import find_shards
from s4v_core.records import plan
from s4v_core.records.captions import caption_units
from s4v_core.training.data.tokens import Encoded, Encoder

SAMPLES_NAME = "samples.arrow"
SKIPPED_NAME = "skipped.jsonl"
BATCH_ROWS = 4096
INDEX_THREADS = 16

_PLACE: list["pa.Field[Any]"] = [
    # Null for text alone.
    INDEX_SCHEMA.field(name).with_nullable(True)
    for name in ("image_id", "uri", "container", "offset", "length", "row", "etag")
]
_FIELDS: list["pa.Field[Any]"] = [
    pa.field("sample_id", pa.string(), nullable=False),
    # BOS first; the image is one id.
    pa.field("ids", pa.list_(pa.int32()), nullable=False),
    pa.field("learnt", pa.list_(pa.bool_()), nullable=False),
    # With the image expanded.
    pa.field("tokens", pa.int32(), nullable=False),
    *_PLACE,
]
SAMPLES_SCHEMA = pa.schema(_FIELDS)
"""One row per sample; its place in the file is its number."""

Place = dict[str, Any]
Joined = tuple[Conversation, Place | None]
"""What is said, and where the image lies that it is said about."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """What became of the data of a job.

    Attributes:
        samples: Rows of the table.
        skipped: Samples left out, by reason.
    """

    samples: int
    skipped: dict[str, int]

    @property
    def share_skipped(self) -> float:
        return sum(self.skipped.values()) / max(self.samples + sum(self.skipped.values()), 1)


def read_samples(
    data: tuple[str, ...], images: tuple[str, ...], image_root: str | None
) -> Iterator[Joined | Unusable]:
    """Every conversation of the data with the place of its image (columns of the plan).

    Raises:
        InputError: Data that are neither a JSON of conversations nor a caption run.
    """
    for uri in data:
        if uri.endswith((".json", ".jsonl")):
            yield from _joined(uri, images or (image_root or storage.parent(uri),))
        else:
            yield from _captioned(uri)


def encode_sample(
    conversation: Conversation, template: chat.Template, encoder: Encoder
) -> Encoded | str:
    """A conversation in tokens, or why it teaches nothing."""
    turns = conversation.turns
    if not template.has_questions and (conversation.image is None or len(turns) != 1):
        return f"not_{template.name}"  # it has an image and one answer, and nothing else
    image_turns = () if conversation.image_turn is None else (conversation.image_turn,)
    return encoder.encode(template.build_pieces(turns, image_turns))


def write_samples(
    output: str,
    samples: Iterator[Joined | Unusable],
    template: chat.Template,
    encoder: Encoder,
    on_samples: Callable[[int], None],
) -> Prepared:
    """Encode everything and write it below `output`; the table appears whole.

    Raises:
        StorageError: The store refuses writes.
    """
    count, reasons, skipped = 0, Counter[str](), []
    with tempfile.TemporaryFile() as file:
        with pa.ipc.new_file(file, SAMPLES_SCHEMA) as writer:
            while part := list(islice(samples, BATCH_ROWS)):
                rows = [_row(sample, template, encoder) for sample in part]
                good = [row for row in rows if not isinstance(row, Unusable)]
                bad = [row for row in rows if isinstance(row, Unusable)]
                writer.write_batch(pa.RecordBatch.from_pylist(good, schema=SAMPLES_SCHEMA))
                count += len(good)
                reasons.update(row.reason for row in bad)
                skipped += [{"sample_id": row.sample_id, "reason": row.reason} for row in bad]
                on_samples(len(part))
        file.seek(0)
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in skipped)
        storage.replace(storage.join(output, SKIPPED_NAME), lines.encode())
        storage.upload(file, storage.join(output, SAMPLES_NAME))
    return Prepared(count, dict(reasons))


def local_samples(uri: str, sha256: str) -> str:
    """Path of the table of samples on this machine, fetched once if it lies in a store."""
    return str(storage.local_copy(uri, Path(tempfile.gettempdir()) / f"s4v-{sha256[:16]}"))


def _row(
    sample: Joined | Unusable, template: chat.Template, encoder: Encoder
) -> dict[str, Any] | Unusable:
    if isinstance(sample, Unusable):
        return sample
    conversation, place = sample
    encoded = encode_sample(conversation, template, encoder)
    if isinstance(encoded, str):
        return Unusable(conversation.sample_id, encoded)
    row = dict.fromkeys(SAMPLES_SCHEMA.names) | {
        "sample_id": conversation.sample_id,
        "ids": encoded.ids,
        "learnt": encoded.learnt,
        "tokens": encoded.length,
    }
    return row | ({field.name: place[field.name] for field in _PLACE} if place else {})


def _joined(uri: str, images: tuple[str, ...]) -> Iterator[Joined | Unusable]:
    """A JSON's conversations with the images of any input."""
    places: Callable[[str], Place | None] | None = None
    for found in read_conversations(uri):
        if isinstance(found, Unusable) or found.image is None:
            yield found if isinstance(found, Unusable) else (found, None)
            continue
        places = places or _lookup(images)
        place = places(found.image)
        if place is None or place["problem"]:
            yield Unusable(found.sample_id, place["problem"] if place else "not_found")
        else:
            yield found, place


def _lookup(images: tuple[str, ...]) -> Callable[[str], Place | None]:
    """Finds an image by its id, by its id without the ending, or by a file name that is unique."""
    with ThreadPoolExecutor(INDEX_THREADS) as pool:
        indexes = list(pool.map(index_shard, find_shards(images)))
    rows = [row for index in indexes for row in index.rows]
    by_id = {row["image_id"]: row for row in rows}
    by_key = {_without_ending(row["image_id"]): row for row in rows}
    names = Counter(key.rsplit("/", 1)[-1] for key in by_key)
    by_name = {key.rsplit("/", 1)[-1]: row for key, row in by_key.items()}

    def find(image: str) -> Place | None:
        key = _without_ending(image)
        found = by_id.get(image) or by_key.get(key)
        if found is None and names[key.rsplit("/", 1)[-1]] == 1:
            found = by_name[key.rsplit("/", 1)[-1]]
        return found

    return find


def _without_ending(name: str) -> str:
    folder, dot, ending = name.rpartition(".")
    return folder if dot and "/" not in ending else name


def _captioned(output: str) -> Iterator[Joined | Unusable]:
    """The captions of a run, with where its plan found the images."""
    head = plan.read_plan_head(output)
    if head is None:
        raise InputError(output, "is neither a .json nor the output of a caption run")
    done = caption_units(output).list_done()
    for unit in range(len(head.unit_rows)):
        if unit not in done:
            continue
        rows = {row["image_id"]: row for row in caption_units(output).read(unit).to_pylist()}
        for place in plan.read_planned_unit(output, unit).to_pylist():
            row = rows[place["image_id"]]
            if row["status"] != "ok":
                yield Unusable(row["image_id"], row["reason"] or row["status"])
                continue
            turns = ((row["prompt"], row["caption"]),)
            yield Conversation(row["image_id"], row["image_id"], turns, 0), place
