"""s4v from Python: `caption(images, model=...)` gives a table of captions.

    from s4v_core.api import caption

    table = caption(["cat.jpg", "dog.jpg"], model="org/name")            # in this process
    table = caption("s3://bucket/shards", model="org/name", output="s3://bucket/run")    # durable

Both ways use the same decoding, engine, quality gate and retry ladder as `ray_jobs/caption.py`.
"""

import asyncio
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from PIL import Image

from s4v_core import storage
from s4v_core.captioning.caption_pass import make_task, run_pass
from s4v_core.captioning.checks import check_model
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.task import CaptionTask
from s4v_core.engines.choice import RunningEngine, start_engine
from s4v_core.errors import ConfigError, StorageError
from s4v_core.flow.loading import load_rows
from s4v_core.flow.task import Row, stamp_row
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.inputs.source_names import name_sources
from s4v_core.inputs.unique_ids import number_repeated_ids
from s4v_core.records.captions import caption_units
from s4v_core.records.plan import require_plan_head
from s4v_core.records.plan_writing import take_first
from s4v_core.records.schemas import table_of
from s4v_core.runs.driver import make_run_id

ImageLike = str | Path | bytes | Image.Image
"""A URI or path, encoded bytes, or a Pillow image."""

_CHUNK = 256
"""Images that are read and decoded while the engine works on as many others."""


def caption(
    images: ImageLike | Iterable[ImageLike],
    model: str,
    *,
    output: str | None = None,
    **settings: Any,
) -> pa.Table:
    """Caption images.

    Args:
        images: One or many images; or inputs as `--input` of caption.py takes them (a folder, a
            pattern, .tar shards, Parquet files, a ShareGPT4V JSON).
        model: Checkpoint folder, URI or hub id of a vision model.
        output: Folder of a durable run, on any fsspec URI; the same call again resumes it. Needs
            inputs that are URIs. Without it everything happens in this process, without Ray.
        settings: Further fields of `CaptionJob`: prompt, engine, sampling, gate, limit, ...

    Returns:
        One row per image, failures included, with the columns of `OUTPUT/captions/*.parquet`. Ids
        of bytes and Pillow images are their places: "0", "1", ...

    Raises:
        ConfigError, InputError: Settings or inputs that cannot be used.
        StorageError: With `output`: images have no row yet; call again to resume.
        EngineError: The engine fails as a whole.
    """
    inputs = _list_inputs(images)
    uris = tuple(str(one) for one in inputs if isinstance(one, (str, Path)))
    if output is not None:
        if len(uris) != len(inputs):
            raise ConfigError(
                "output: found images in memory, allowed URIs that a run can read again"
            )
        return _caption_durably(CaptionJob(input=uris, output=output, model=model, **settings))
    job = CaptionJob(input=uris or ("memory",), output="memory", model=model, **settings)
    checked = check_model(job)
    if checked.engine.spans_nodes:
        raise ConfigError(
            "settings.nodes_per_engine: allowed 1 in this process, because Ray places engines on "
            "several nodes; set output"
        )
    planned, contents = _plan_in_memory(job, inputs, checked.columns)
    task, engine = make_task(checked), start_engine(checked.engine)
    try:
        rows = asyncio.run(_caption_here(task, engine, planned, contents))
    finally:
        engine.close()
    return table_of(rows, task.contract.schema, "captions")


def _caption_durably(job: CaptionJob) -> pa.Table:
    outcome = run_pass(job)
    if left := len(outcome.counts.missing) + len(outcome.counts.outdated):
        problem = f"{left} units are missing; call again to resume"
        raise StorageError(outcome.output, problem)
    units = caption_units(outcome.output, require_plan_head(outcome.output).settings)
    tables = [units.read(unit) for unit in sorted(units.list_done())]
    return pa.concat_tables(tables).cast(units.contract.schema)


def _list_inputs(images: ImageLike | Iterable[ImageLike]) -> list[ImageLike]:
    if isinstance(images, (str, Path, bytes, Image.Image)):
        return [images]
    return list(images)


def _plan_in_memory(
    job: CaptionJob, inputs: Sequence[ImageLike], columns: tuple[str, ...]
) -> tuple[list[dict[str, Any]], list[bytes | None]]:
    """Planned rows in the order of the inputs, and the bytes of those that are at hand."""
    tables: list[pa.Table] = []
    contents: list[bytes | None] = []
    for place, one in enumerate(inputs):
        if isinstance(one, (str, Path)):
            found = [
                table_of(index_shard(shard)[0], INDEX_SCHEMA, shard.uri)
                for shard in find_shards(
                    (str(one),), job.image_root, columns, job.image_column, job.only_missing
                )
            ]
            found = [name_sources(rows, job.sources, job.source_column) for rows in found]
        else:
            row = {"image_id": str(place), "uri": "", "source": "memory"}
            found = [table_of([dict.fromkeys(INDEX_SCHEMA.names) | row], INDEX_SCHEMA, "memory")]
        tables += found
        data = None if isinstance(one, (str, Path)) else _encode(one)
        contents += [data] * sum(rows.num_rows for rows in found)
    tables = tables if job.limit is None else list(take_first(tables, job.limit))
    tables, _ = number_repeated_ids(tables)
    planned = [row for table in tables for row in table.to_pylist()]
    return planned, contents[: len(planned)]


def _encode(image: bytes | Image.Image) -> bytes:
    if isinstance(image, bytes):
        return image
    sink = io.BytesIO()
    image.save(sink, "PNG", compress_level=1)
    return sink.getvalue()


async def _caption_here(
    task: CaptionTask,
    engine: RunningEngine,
    planned: list[dict[str, Any]],
    contents: list[bytes | None],
) -> list[Row]:
    """Caption chunk by chunk; the next chunk is read and decoded while the engine works."""
    run_id, rows = make_run_id(), list[Row]()
    starts = range(0, len(planned), _CHUNK)
    following: asyncio.Task[list[Any]] | None = None
    for start in starts:
        prepared = await (following or _prepare(task, planned, contents, start))
        following = asyncio.create_task(_prepare(task, planned, contents, start + _CHUNK))
        found = await asyncio.gather(
            *(task.answer(one.about, one.pictures, engine) for one in prepared)
        )
        rows += [stamp_row(row, run_id) for row in found]
    if following:
        await following
    return rows


async def _prepare(
    task: CaptionTask, planned: list[dict[str, Any]], contents: list[bytes | None], start: int
) -> list[Any]:
    def prepare() -> list[Any]:
        at_hand = contents[start : start + _CHUNK]
        with storage.patience(storage.UNIT_PATIENCE_S):
            chunk = planned[start : start + _CHUNK]
            rows, read = load_rows(chunk, task.reads_payloads, task.max_file_bytes, task.web)
        return [
            task.prepare(row, content if data is None else data)
            for row, content, data in zip(rows, read, at_hand, strict=True)
        ]

    return await asyncio.to_thread(prepare)
