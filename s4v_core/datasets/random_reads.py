"""Containers that are slow to read at random, as training reads them, each with the figure."""

import logging
from collections.abc import Iterator, Sequence

import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.datasets.conversations import Unusable
from s4v_core.datasets.joining import PlacedConversation
from s4v_core.errors import InputError
from s4v_core.inputs.parquet_columns import find_bytes_column, open_parquet

_LOG = logging.getLogger(__name__)

_SLOW_BYTES = 8 << 20
"""A read of more bytes per image is slow: some 50 ms, as many as decoding and resizing takes."""

_MOST_FILES = 4
"""Parquet files that are opened; those of one data set are written alike."""

_MB = 1e6


def watch_reads(
    samples: Iterator[PlacedConversation | Unusable],
) -> Iterator[PlacedConversation | Unusable]:
    """Yield the samples as they are; at the end, log a warning about large row groups.

    Raises:
        InputError: An image lies in a compressed tar, which must be unpacked up to the image for
            every read.
    """
    tables: dict[str, None] = {}
    for sample in samples:
        for place in sample.places if isinstance(sample, PlacedConversation) else ():
            if place["container"] == "targz":
                raise InputError(place["uri"], describe_packed_tar(place["uri"]))
            if place["container"] == "parquet":
                tables[place["uri"]] = None
        yield sample
    for sentence in describe_row_groups(list(tables)):
        _LOG.warning("%s", sentence)


def describe_packed_tar(uri: str) -> str:
    """Why a compressed tar cannot be trained on, with the figure and the way out."""
    file = storage.stat(uri)
    size = f"{file.size / _MB:,.1f} MB" if file else "file"
    return (
        f"is a compressed tar: each image that training reads unpacks half of its {size} on "
        "average; unpack it once (gzip -d, zstd -d, ...) and give the .tar, which is read at random"
    )


def describe_row_groups(uris: Sequence[str]) -> list[str]:
    """A sentence about each of the first Parquet files whose row groups are large."""
    found = []
    for uri in uris[:_MOST_FILES]:
        rows, size = _measure_row_groups(uri)
        if size > _SLOW_BYTES:
            found.append(
                f"{uri}: each image that training reads costs {size / _MB:,.1f} MB, because its "
                f"row groups hold {rows:,.0f} images; write it with row groups of about "
                f"{max(int(rows * (1 << 20) / size), 1)} (pyarrow: row_group_size), or as .tar"
            )
    return found


def _measure_row_groups(uri: str) -> tuple[float, float]:
    """Images of a row group, and bytes of its image column, for an image drawn at random."""
    with storage.open_to_read(uri) as file:
        table = open_parquet(file)
        column = find_bytes_column(table.schema_arrow)
        groups = [
            _measure_group(table, number, column.name if column else "")
            for number in range(table.num_row_groups)
        ]
    images = max(sum(rows for rows, _ in groups), 1)
    return (
        sum(rows * rows for rows, _ in groups) / images,
        sum(rows * size for rows, size in groups) / images,
    )


def _measure_group(table: pq.ParquetFile, number: int, column: str) -> tuple[int, int]:
    group = table.metadata.row_group(number)
    parts = [group.column(at) for at in range(group.num_columns)]
    size = sum(p.total_compressed_size for p in parts if p.path_in_schema.split(".")[0] == column)
    return group.num_rows, size
