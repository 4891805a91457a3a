"""Counts the tokens of samples whose images differ in size, by reading some of them as training
does: the pictures decide how many tokens there are, and where a text is cut."""

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from s4v_core.datasets.joining import PlacedConversation
from s4v_core.errors import StorageError
from s4v_core.images.policy import Framing
from s4v_core.training.data.collation import Collator, MicroBatch
from s4v_core.training.data.loader import StepReader
from s4v_core.training.data.order import HeldOut
from s4v_core.training.data.samples import AnyTemplate, encode_samples
from s4v_core.training.data.tokens import Encoder


@dataclass(frozen=True, slots=True)
class ReadSamples:
    """Samples that were read with their images.

    Attributes:
        lengths: Tokens and learnt tokens of each.
        images: Number of images that were read.
        image_tokens: Number of their tokens.
        refused: Reasons of the samples that cannot be used.
    """

    lengths: list[tuple[int, int]]
    images: int
    image_tokens: int
    refused: list[str]


def read_samples(
    samples: Sequence[PlacedConversation],
    template: AnyTemplate,
    encoder: Encoder,
    collator: Collator,
    framing: Framing,
) -> ReadSamples:
    """Read samples with their images, one by one.

    Raises:
        StorageError: The store of the images does not answer.
    """
    table, refused = encode_samples(samples, template, encoder)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "samples.arrow"
        with pa.OSFile(str(path), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_batch(table)
        order = HeldOut(np.arange(table.num_rows), batch_size=1)
        reader = StepReader(str(path), order, collator, framing, 0, 1, 1)
        batches = [_read(reader, step) for step in range(table.num_rows)]
    return ReadSamples(
        lengths=[(batch.tokens, batch.learnt) for batch in batches],
        images=sum(batch.images for batch in batches),
        image_tokens=sum(batch.image_places_P.numel() for batch in batches),
        refused=[one.reason for one in refused],
    )


def _read(reader: StepReader, step: int) -> MicroBatch:
    found = reader[step]
    if isinstance(found, StorageError):
        raise found
    return found[0]
