"""The engine actor: prepared units in, result rows out, several units at once on one event loop."""

import asyncio
import json
import time
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from s4v_core import storage
from s4v_core.errors import S4VError
from s4v_core.generation.brake import Brake
from s4v_core.generation.engine_choice import build_engine
from s4v_core.generation.pass_spec import PassSpec
from s4v_core.generation.requests import Generation, Request
from s4v_core.records import units
from s4v_core.records.schemas import RESULT_SCHEMA, table_of

TIMES = ("read_s", "decode_s", "generate_s", "idle_s")
GENERATED_SCHEMA = pa.schema(
    [*RESULT_SCHEMA, pa.field("unit", pa.int32()), *(pa.field(n, pa.float64()) for n in TIMES)]
)


class CaptionerActor:
    """One per accelerator; holds the engine for the whole pass."""

    def __init__(self, spec: PassSpec, brake: Brake) -> None:
        self._spec, self._brake = spec, brake
        # Ray keeps only the text of what a constructor raises; the first call raises it whole.
        self._failure: S4VError | None = None
        try:
            self._engine = build_engine(spec.engine)
        except S4VError as error:
            self._failure = error
        self._sampling = json.dumps(spec.sampling.model_dump(), sort_keys=True)
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
            requests = [
                _request(row, prepared["pixels"][at]) for at, row in enumerate(rows) if _sound(row)
            ]
            answers = iter(await self._engine.generate(requests, self._spec.sampling))
        finally:
            busy_s = self._clock.end()
        times = {"generate_s": busy_s, "idle_s": idle_s}
        done = [
            self._result(row, next(answers) if _sound(row) else None)
            | {name: row[name] for name in ("unit", "read_s", "decode_s")}
            | times
            for row in rows
        ]
        return table_of(done, GENERATED_SCHEMA, f"unit {rows[0]['unit']}")

    def _result(self, row: dict[str, Any], answer: Generation | None) -> dict[str, Any]:
        spec = self._spec
        result = {name: row[name] for name in RESULT_SCHEMA.names if name in row}
        reason = row["reason"] if answer is None else answer.reason
        return result | {
            "caption": answer.text if answer else None,
            "status": "ok" if reason is None else "error",
            "reason": reason,
            "attempts": 0 if answer is None else 1,
            "finish_reason": answer.finish_reason if answer else None,
            "prompt_tokens": answer.prompt_tokens if answer else None,
            "output_tokens": answer.output_tokens if answer else None,
            "model": spec.model,
            "model_revision": spec.model_revision,
            "engine": self._engine.version,
            "sampling": self._sampling,
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


def _sound(row: dict[str, Any]) -> bool:
    return row["reason"] is None


def _request(row: dict[str, Any], pixels: pa.LargeBinaryScalar) -> Request:
    # The buffer lies in the object store; nothing is copied.
    shape = (row["pixel_height"], row["pixel_width"], 3)
    picture = np.frombuffer(memoryview(pixels.as_buffer()), np.uint8).reshape(shape)
    return Request(row["image_id"], row["image_sha256"], picture, row["prompt"])
