"""Drawing images as a task of the flow, one row with its PNG for each; and their tar shards."""

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from PIL import Image

from s4v_core import storage
from s4v_core.engines.requests import Generator, Picture, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSpec
from s4v_core.flow.spec import Engines
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.inputs.tar import add_member
from s4v_core.records.contract import Contract, Words, result_schema
from s4v_core.records.plan import read_plan_head
from s4v_core.records.units import UnitFolder
from s4v_core.synthesis.entries import Entry
from s4v_core.synthesis.parsing import strip_brackets
from s4v_core.synthesis.waves import (
    PlannedRow,
    StageRun,
    list_planned_keys,
    run_waves,
    wave_folder,
)

DRAWN = Contract(
    folder="drawn",
    schema=result_schema(
        "image_id",
        pa.field("ability", pa.string(), nullable=False),
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("seed", pa.int64()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("engine", pa.string(), nullable=False),
        pa.field("steps", pa.int32()),
        pa.field("guidance", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("image_sha256", pa.string()),
        pa.field("reason_detail", pa.string()),
        pa.field("png", pa.binary()),
    ),
    key="image_id",
    statistics=("image_id", "ability", "status", "reason"),
    words=Words(rows="images", made="drawn", answers="images"),
)

SHARDS = "shards"
"""Folder of the tars, below that of the stage."""

_BLANK_LEVELS = 2.0
"""Standard deviation, in grey levels, below which a picture shows nothing."""


@dataclass(frozen=True, slots=True)
class ToDraw:
    """An image on its way to the painter."""

    image_id: str
    ability: str
    prompt: str
    number: int


@dataclass(frozen=True)
class DrawTask(Task[ToDraw]):
    """Draws one image per row.

    Attributes:
        model: The painter, as rows name it.
        strips_brackets: Whether the painter gets its prompts without brackets.
    """

    model: str
    strips_brackets: bool = False
    contract = DRAWN

    def prepare(self, planned: dict[str, Any], content: bytes | str | None) -> Prepared[ToDraw]:
        row = json.loads(planned["payload"])
        return Prepared(
            ToDraw(planned["image_id"], row["ability"], row["prompt"], int(row["number"]))
        )

    async def answer(self, about: ToDraw, pictures: tuple[Picture, ...], engine: Generator) -> Row:
        prompt = strip_brackets(about.prompt) if self.strips_brackets else about.prompt
        # The content fixes the seed: an image depends on its prompt and number, and on no batch.
        content = f"{prompt}\n{about.number}"
        answer = await engine.generate(
            Request(about.image_id, content, (), prompt), SamplingConfig()
        )
        row = self._make_row(about) | {"engine": engine.version, "attempts": 1}
        if answer.drawing is None:
            reason = answer.reason or "no_image"
            return row | {"reason": reason, "reason_detail": answer.reason_detail}
        drawing = answer.drawing
        with Image.open(io.BytesIO(drawing.png)) as image:
            size, blank = image.size, find_blankness(image)
        return row | {
            "seed": drawing.seed,
            "steps": drawing.steps,
            "guidance": drawing.guidance,
            "width": size[0],
            "height": size[1],
            "image_sha256": hashlib.sha256(drawing.png).hexdigest(),
            "png": drawing.png,
            "status": "rejected" if blank else "ok",
            "reason": blank,
        }

    def fail(self, about: ToDraw, reason: str) -> Row:
        return self._make_row(about) | {"reason": reason}

    def _make_row(self, about: ToDraw) -> Row:
        empty = dict.fromkeys(DRAWN.schema.names)
        del empty["run_id"], empty["created_at"]  # the flow adds them
        return empty | {
            "image_id": about.image_id,
            "ability": about.ability,
            "prompt": about.prompt,
            "model": self.model,
            "engine": "",
            "status": "error",
            "attempts": 0,
        }


def find_blankness(image: Image.Image) -> str | None:
    """black or blank, if a picture shows nothing; a safety checker of diffusers paints black."""
    levels = np.asarray(image.convert("RGB"), np.float32)
    if float(levels.std((0, 1)).max()) >= _BLANK_LEVELS:  # two colors may be equally bright
        return None
    return "black_image" if float(levels.mean()) < _BLANK_LEVELS else "blank_image"


def draw_images(
    output: str,
    entries: Sequence[Entry],
    painter: EngineSpec,
    name: str,
    strips_brackets: bool,
    engines: Engines | None = None,
    unit_size: int = 64,
) -> StageRun:
    """Draw every image of the entries."""

    def plan_wave(wave: int) -> list[PlannedRow]:
        planned = list_planned_keys(output, DRAWN)
        return [row for entry in entries for row in _plan(entry) if row["image_id"] not in planned]

    return run_waves(
        output,
        plan_wave,
        lambda wave: DrawTask(name, strips_brackets),
        painter,
        {"painter": name, "strips_brackets": strips_brackets},
        most_waves=1000,
        engines=engines,
        unit_size=unit_size,
    )


def _plan(entry: Entry) -> Iterator[PlannedRow]:
    for number, (image_id, prompt) in enumerate(
        zip(entry.name_images(), entry.prompts, strict=True)
    ):
        about = {"ability": entry.ability, "prompt": prompt, "number": number}
        yield {"image_id": image_id, "payload": json.dumps(about), "source": entry.ability}


def name_member(ability: str, image_id: str) -> str:
    """Name of an image in its shard, and in records."""
    return f"{ability}/{image_id}.png"


def write_image_shards(output: str) -> int:
    """Write a tar for every unit of drawn images: `<ability>/<image id>.png`, and its prompt, seed,
    model, steps and guidance as `.json` beside it. Shards that are there stay as they are.

    Returns:
        Number of images.
    """
    count = 0
    for name, rows in _read_units(output):
        good = [row for row in rows if row["status"] == "ok"]
        count += len(good)
        uri = storage.join(output, SHARDS, f"{name}.tar")
        if good and storage.stat(uri) is None:
            storage.create(uri, _pack(good))
    return count


def _pack(rows: Iterable[Mapping[str, Any]]) -> bytes:
    sink = io.BytesIO()
    facts = ("prompt", "seed", "model", "engine", "steps", "guidance", "image_sha256")
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for row in rows:
            member = name_member(row["ability"], row["image_id"])
            about = json.dumps({name: row[name] for name in facts}, ensure_ascii=False)
            add_member(tar, member, row["png"])
            add_member(tar, f"{member.removesuffix('.png')}.json", about.encode())
    return sink.getvalue()


def read_drawn_rows(output: str) -> Iterator[Row]:
    """Rows of all images, with their PNGs."""
    for _, rows in _read_units(output):
        yield from rows


def _read_units(output: str) -> Iterator[tuple[str, list[Row]]]:
    wave = 1
    while read_plan_head(folder := wave_folder(output, wave)) is not None:
        units = UnitFolder(folder, DRAWN)
        for unit in sorted(units.list_done()):
            yield f"wave-{wave:02d}-{unit:06d}", units.read(unit).to_pylist()
        wave += 1
