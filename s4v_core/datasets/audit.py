"""Audits a data set against its images, and writes it again without what cannot be used.

Writes into one folder `audit.json` (all counts), `problems.jsonl` (each record that is left out,
and why), `manifest.parquet` (each image of each record with its state) and `cleaned.json` (or the
form of the input): the records that are left, byte for byte.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq

from s4v_core import storage
from s4v_core.datasets.audit_counts import AuditCounts
from s4v_core.datasets.audit_report import AuditReport
from s4v_core.datasets.image_checks import PixelCheck
from s4v_core.datasets.image_search import FOUND, UNCHECKED, SearchResult, search_images
from s4v_core.datasets.image_sources import TEXT_ONLY, name_source
from s4v_core.datasets.record_faults import Fault, RecordReading, name_record, read_fields
from s4v_core.datasets.record_files import check_free, read_record_file, write_record_file
from s4v_core.inputs.json_stream import Span

Check = Literal["names", "pixels"]
"""How closely an audit looks: whether the images are there, or whether they decode, too."""

_FIELDS: "list[pa.Field[Any]]" = [
    pa.field("record", pa.int64()),
    *(pa.field(name, pa.string()) for name in ("id", "image", "source", "state")),
]
MANIFEST = pa.schema(_FIELDS)
"""Columns of the manifest: one row per image of each record, and one for a record without any."""

_BATCH = 8192


def audit_records(
    data: str,
    images: Sequence[str],
    to: str,
    check: Check = "names",
    on_images: Callable[[int], object] | None = None,
) -> AuditReport:
    """Audit a file of records; see above for what is written into the folder `to`.

    Args:
        images: Inputs with its images; without any, only the records are judged.
        check: Whether images are opened.
        on_images: Called with a number of images of the store that were looked at.

    Raises:
        ConfigError: A file that would be written exists.
        InputError: The data or the images cannot be read at all.
    """
    targets = _Targets.check(data, to)
    counts = AuditCounts()
    for number, span in enumerate(read_record_file(data, keeps_bad=True), 1):
        if span.text:
            counts.add(span.value, read_fields(data, number, span.value))
    search = _search(counts, images, check, on_images) if images else None
    with _open_outputs(targets) as outputs:
        for number, span in enumerate(read_record_file(data, keeps_bad=True), 1):
            if not span.text:
                outputs.records.write(span)
                break
            reading = read_fields(data, number, span.value)
            outputs.add(number, span, reading, search, counts)
    report = AuditReport.build(data, targets.cleaned, check, counts, search)
    storage.create(targets.report, json.dumps(report.describe(), indent=2).encode() + b"\n")
    return report


def _search(
    counts: AuditCounts,
    images: Sequence[str],
    check: Check,
    on_images: Callable[[int], object] | None,
) -> SearchResult:
    pixels = PixelCheck() if check == "pixels" else None
    try:
        return search_images(counts.images, images, pixels, on_images)
    finally:
        if pixels:
            pixels.close()


@dataclass(frozen=True, slots=True)
class _Targets:
    """URIs of what an audit writes."""

    report: str
    problems: str
    manifest: str
    cleaned: str

    @classmethod
    def check(cls, data: str, to: str) -> "_Targets":
        name = storage.base_name(data).lower()
        ending = next((e for e in (".jsonl", ".ndjson", ".parquet") if e in name), ".json")
        names = ("audit.json", "problems.jsonl", "manifest.parquet", f"cleaned{ending}")
        targets = cls(*(storage.join(to, name) for name in names))
        for uri in (targets.report, targets.problems, targets.manifest, targets.cleaned):
            check_free(uri)
        return targets


class _Outputs:
    """The files of an audit while they are written."""

    def __init__(self, records: Any, problems: IO[bytes], manifest: pq.ParquetWriter) -> None:
        self.records = records
        self._problems, self._manifest = problems, manifest
        self._rows: list[dict[str, Any]] = []

    def add(
        self,
        number: int,
        span: Span,
        reading: RecordReading,
        search: SearchResult | None,
        counts: AuditCounts,
    ) -> None:
        """Write a record where it belongs, and count it."""
        states = {image: search.judge(image) if search else UNCHECKED for image in reading.images}
        fault = reading.fault or _find_image_fault(states)
        counts.judge(reading.images, states, fault)
        if fault:
            self.records.skip(span)
            line = {"record": number, "id": name_record(span.value), **_describe(fault)}
            self._problems.write(json.dumps(line).encode() + b"\n")
        else:
            self.records.write(span)
        self._add_rows(number, span, states, fault)

    def _add_rows(
        self, number: int, span: Span, states: dict[str, str], fault: Fault | None
    ) -> None:
        for image, state in states.items() or [(None, FOUND)]:
            source = name_source(image) if image else TEXT_ONLY
            state = fault.reason if fault and state in (UNCHECKED, FOUND) else state
            row = {"record": number, "id": name_record(span.value), "image": image}
            self._rows.append(_clean({**row, "source": source, "state": state}))
        if len(self._rows) >= _BATCH:
            self.flush()

    def flush(self) -> None:
        """Write the rows of the manifest that are waiting."""
        self._manifest.write_table(pa.Table.from_pylist(self._rows, schema=MANIFEST))
        self._rows.clear()


def _find_image_fault(states: dict[str, str]) -> Fault | None:
    return next(
        (
            Fault(state, "image", image)
            for image, state in states.items()
            if state not in (UNCHECKED, FOUND)
        ),
        None,
    )


def _describe(fault: Fault) -> dict[str, str]:
    return {"reason": fault.reason, "field": fault.field, "found": fault.found}


def _clean(row: dict[str, Any]) -> dict[str, Any]:
    """A row without lone surrogates, which no table holds."""
    return {
        name: value.encode("utf-8", "replace").decode() if isinstance(value, str) else value
        for name, value in row.items()
    }


@contextmanager
def _open_outputs(targets: _Targets) -> Iterator[_Outputs]:
    with NamedTemporaryFile() as problems, NamedTemporaryFile() as table:
        with (
            pq.ParquetWriter(table, MANIFEST, compression="zstd") as manifest,
            write_record_file(targets.cleaned) as records,
        ):
            outputs = _Outputs(records, problems, manifest)
            yield outputs
            outputs.flush()
        for uri, file in ((targets.problems, problems), (targets.manifest, table)):
            file.flush()
            storage.create_file(uri, Path(file.name))
