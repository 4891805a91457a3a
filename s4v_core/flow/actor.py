"""The engine actor: prepared units in, result rows out, several units at once on one event loop."""

import asyncio
import json
import time
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core import storage
from s4v_core.captioning.ladder import Ending, attempted
from s4v_core.captioning.twins import Twins
from s4v_core.engines.choice import build_engine
from s4v_core.engines.requests import Request, SamplingConfig
from s4v_core.engines.supervision import SupervisedEngine
from s4v_core.errors import S4VError
from s4v_core.failpoints import reach
from s4v_core.flow.brake import Brake
from s4v_core.flow.lease import tell_tenure
from s4v_core.flow.spec import PassSpec
from s4v_core.records import units
from s4v_core.records.schemas import RESULT_SCHEMA, table_of

MORE_TEMPERATURE = 0.7
MORE_SEEDS = 1000
"""Apart from the seeds of the ladder."""

TIMES = ("read_s", "decode_s", "generate_s", "idle_s")
_EXTRA: list["pa.Field[Any]"] = [
    pa.field("unit", pa.int32()),
    pa.field("engine_starts", pa.int32()),
    pa.field("ended_at", pa.float64()),
    *(pa.field(name, pa.float64()) for name in TIMES),
]
GENERATED_SCHEMA = pa.schema([*RESULT_SCHEMA, *_EXTRA])
_GENERATED_NAMES = frozenset(GENERATED_SCHEMA.names)


class CaptionerActor:
    """One per accelerator; holds the engine for the whole pass."""

    def __init__(self, spec: PassSpec, brake: Brake, twins: Twins | None = None) -> None:
        self._spec, self._brake, self._twins = spec, brake, twins
        tell_tenure(brake)  # loading is a part of what an engine costs
        # Ray keeps only the text of what a constructor raises; the first call raises it whole.
        self._failure: S4VError | None = None
        try:
            settings = spec.engine.settings
            self._engine = SupervisedEngine(
                partial(build_engine, spec.engine),
                settings.silence_limit_s,
                settings.max_engine_starts,
            )
        except S4VError as error:
            self._failure = error
        self._told_starts = 1
        self._clock = _BusyClock()

    async def __call__(self, prepared: pa.Table) -> pa.Table:
        """PREPARED_SCHEMA in, GENERATED_SCHEMA out; rows keep their order.

        Empty where nothing was prepared, or where the brake was pulled or another run had
        committed the unit before its turn came.
        """
        if not prepared.num_rows or await self._brake.is_pulled_now():
            return GENERATED_SCHEMA.empty_table()
        uri = units.unit_uri(self._spec.output, prepared["unit"][0].as_py())
        if not self._spec.heal and await asyncio.to_thread(storage.exists, uri):
            return GENERATED_SCHEMA.empty_table()
        with self._brake.reporting():
            return await self._captioned(prepared)

    async def _captioned(self, prepared: pa.Table) -> pa.Table:
        if self._failure:
            raise self._failure
        idle_s = self._clock.begin()
        try:
            rows = prepared.drop_columns("pixels").to_pylist()
            reach("in_generate")
            pixels = views(prepared["pixels"])
            done = await asyncio.gather(*map(self._row, rows, pixels))
        finally:
            busy_s = self._clock.end()
        about = {"generate_s": busy_s, "idle_s": idle_s, "engine_starts": self._new_starts()}
        about |= {"ended_at": time.time()}
        return table_of([row | about for row in done], GENERATED_SCHEMA, f"unit {rows[0]['unit']}")

    async def _row(self, row: dict[str, Any], pixels: memoryview) -> dict[str, Any]:
        """One of GENERATED_SCHEMA, made as soon as its caption is: its `created_at` is its own."""
        return _result(row, await self._ended(row, pixels), self._spec, self._engine.version)

    async def _ended(self, row: dict[str, Any], pixels: memoryview) -> Ending:
        """How it ends with one image, or how it ended with an equal one."""
        twins, key = self._twins, row["twin_key"]
        if twins is None or key is None:
            return await self._attempted(row, pixels)
        if found := await twins.claim(key, row["image_id"]):
            return found
        ending = await self._attempted(row, pixels)
        await twins.tell(key, row["image_id"], ending)
        return ending

    async def _attempted(self, row: dict[str, Any], pixels: memoryview) -> Ending:
        """A caption that passes the gate, or how the last attempt ended."""
        if row["reason"] is not None:
            return Ending("error", row["reason"], 0, None)
        request = _request(row, pixels)
        end = await attempted(self._engine, request, self._spec.samplings, self._spec.gate)
        if end.status != "ok":
            return end
        return replace(end, more=await self._more(request, self._spec.samplings[end.rung - 1]))

    async def _more(self, request: Request, first: SamplingConfig) -> tuple[str, ...]:
        """Other captions of the same image, drawn warmer; those that the gate lets pass."""
        warm = max(first.temperature, MORE_TEMPERATURE)
        samplings = [
            first.replace(temperature=warm, seed=first.seed + MORE_SEEDS + number)
            for number in range(self._spec.captions_per_image - 1)
        ]
        answers = await asyncio.gather(
            *(self._engine.generate(request, sampling) for sampling in samplings)
        )
        judge = self._spec.gate.judge
        return tuple(
            answer.text
            for answer in answers
            if answer.text and not judge(answer.text, answer.finish_reason, request.prompt)
        )

    def _new_starts(self) -> int:
        new, self._told_starts = self._engine.starts - self._told_starts, self._engine.starts
        return new


def failed_rows(prepared: pa.Table, reason: str, spec: PassSpec) -> pa.Table:
    """PREPARED_SCHEMA in, GENERATED_SCHEMA out: images that no engine gave an answer for."""
    about = {"generate_s": 0.0, "idle_s": 0.0, "engine_starts": 0, "ended_at": time.time()}
    rows = prepared.drop_columns("pixels").to_pylist()
    ends = [Ending("error", row["reason"] or reason, 1, None) for row in rows]
    done = [
        _result(row, end, spec, spec.engine.name) | about
        for row, end in zip(rows, ends, strict=True)
    ]
    return table_of(done, GENERATED_SCHEMA, "rows without an answer")


def _result(row: dict[str, Any], end: Ending, spec: PassSpec, engine: str) -> dict[str, Any]:
    answer = end.answer
    sampling = spec.samplings[end.rung - 1]
    return {name: row[name] for name in row.keys() & _GENERATED_NAMES} | {
        "caption": answer.text if answer else None,
        "status": end.status,
        "reason": end.reason,
        "attempts": end.attempts,
        "twin_of": end.twin_of,
        "more_captions": list(end.more) or None,
        "finish_reason": answer.finish_reason if answer else None,
        "prompt_tokens": answer.prompt_tokens if answer else None,
        "output_tokens": answer.output_tokens if answer else None,
        "model": spec.model,
        "model_revision": spec.model_revision,
        "engine": engine,
        "sampling": json.dumps(sampling.model_dump(), sort_keys=True),
        "run_id": spec.run_id,
        "created_at": datetime.now(UTC),
    }


class _BusyClock:
    """Time with and without work, however many units overlap: both add up to the whole."""

    def __init__(self) -> None:
        self._active = 0
        self._since: float | None = None  # the wait for the first unit is nobody's fault

    def begin(self) -> float:
        """A unit comes; returns the seconds for which there was none."""
        self._active += 1
        if self._active > 1:
            return 0.0
        now = time.monotonic()
        idle_s = 0.0 if self._since is None else now - self._since
        self._since = now
        return idle_s

    def end(self) -> float:
        """A unit goes; returns the busy seconds since the last time one did, or came to none."""
        assert self._since is not None, "a unit ends after it began"
        self._active -= 1
        now = time.monotonic()
        busy_s, self._since = now - self._since, now
        return busy_s


def views(column: "pa.ChunkedArray[Any]") -> list[memoryview]:
    """Each row's bytes where they lie, in the object store; Arrow's own scalars are copies."""
    found: list[memoryview] = []
    for chunk in column.chunks:
        _, ends, data = chunk.buffers()
        assert ends, "of large_binary"
        whole = memoryview(data or b"")
        here = np.frombuffer(memoryview(ends), np.int64)[
            chunk.offset : chunk.offset + len(chunk) + 1
        ]
        found += [whole[start:end] for start, end in pairwise(here)]
    return found


def _request(row: dict[str, Any], pixels: memoryview) -> Request:
    shape = (row["pixel_height"], row["pixel_width"], 3)
    picture = np.frombuffer(pixels, np.uint8).reshape(shape)
    return Request(row["image_id"], row["image_sha256"], picture, row["prompt"])
