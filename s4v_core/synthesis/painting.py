"""Drawing images from prompts as a task of the flow: a row and a PNG in a tar for each prompt."""

import hashlib
import io
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
from PIL import Image

from s4v_core import storage
from s4v_core.engines.drawing import find_flaw
from s4v_core.engines.requests import Drawing, Generator, Picture, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSpec
from s4v_core.flow.spec import Engines
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.records.contract import SHARD_FIELD, Contract, Words, result_schema
from s4v_core.records.unit_shards import UnitShards, check_shard_key
from s4v_core.records.units import UnitFolder
from s4v_core.runs.outcome import Outcome
from s4v_core.runs.table_run import run_rows

PAINTED = Contract(
    folder="painted",
    schema=result_schema(
        "image_id",
        pa.field("prompt", pa.string(), nullable=False),
        pa.field("number", pa.int32(), nullable=False),
        pa.field("source", pa.string()),
        pa.field("seed", pa.int64()),
        pa.field("steps", pa.int32()),
        pa.field("guidance", pa.float64()),
        pa.field("width", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("model", pa.string(), nullable=False),
        pa.field("model_revision", pa.string(), nullable=False),
        pa.field("engine", pa.string()),
        pa.field("image_sha256", pa.string()),
        pa.field("reason_detail", pa.string()),
        SHARD_FIELD,
    ),
    key="image_id",
    words=Words(rows="images", made="drawn", answers="images"),
    shards="images",
)
"""Rows of drawn images; their PNGs lie in OUTPUT/images/*.tar, each with its facts as JSON."""

UNIT_SIZE = 64
"""Images of a unit: a large picture takes minutes, and a unit's PNGs travel together."""

SAFETY_CHECKER = "safety_checker"
"""Reason of a picture that the pipeline's own safety checker refused."""

_FACTS = (
    *("prompt", "number", "seed", "steps", "guidance", "width", "height"),
    *("model", "model_revision", "engine", "image_sha256"),
)


@dataclass(frozen=True, slots=True)
class PromptToDraw:
    """An image to draw.

    Attributes:
        image_id: Names the image; letters, digits, '_', '-', and '/' between them.
        number: Tells apart images that are drawn from the same prompt.
        source: Where the prompt comes from, such as its ability; reports count by it.
    """

    image_id: str
    prompt: str
    number: int = 0
    source: str | None = None


@dataclass(frozen=True)
class PaintTask(Task[PromptToDraw]):
    """Draws one image per row.

    Attributes:
        model, model_revision: The painter, as rows record it.
    """

    model: str
    model_revision: str
    contract = PAINTED

    def prepare(
        self, planned: dict[str, Any], content: bytes | str | None
    ) -> Prepared[PromptToDraw]:
        about = json.loads(planned["payload"])
        found = PromptToDraw(
            planned["image_id"], about["prompt"], about["number"], planned["source"]
        )
        return Prepared(found)

    async def answer(
        self, about: PromptToDraw, pictures: tuple[Picture, ...], engine: Generator
    ) -> Row:
        # The content fixes the seed: an image depends on its prompt and number, and on no batch.
        content = f"{about.number}\n{about.prompt}"
        request = Request(about.image_id, content, (), about.prompt)
        answer = await engine.generate(request, SamplingConfig())
        row = self._make_row(about) | {"engine": engine.version, "attempts": 1}
        if answer.drawing is None:
            reason = answer.reason or "no_image"
            if reason == "engine_refused:content_filter":
                return row | {"status": "rejected", "reason": SAFETY_CHECKER}
            return row | {"reason": reason, "reason_detail": answer.reason_detail}
        return row | _describe_drawing(row, answer.drawing)

    def fail(self, about: PromptToDraw, reason: str) -> Row:
        return self._make_row(about) | {"reason": reason}

    def _make_row(self, about: PromptToDraw) -> Row:
        empty = dict.fromkeys(PAINTED.schema.names)
        del empty["run_id"], empty["created_at"]  # the flow adds them
        return empty | {
            "image_id": about.image_id,
            "prompt": about.prompt,
            "number": about.number,
            "source": about.source,
            "model": self.model,
            "model_revision": self.model_revision,
            "status": "error",
            "attempts": 0,
            "files": None,
        }


def paint_prompts(
    prompts: Iterable[PromptToDraw],
    output: str,
    painter: EngineSpec,
    engines: Engines | None = None,
    unit_size: int = UNIT_SIZE,
) -> Outcome:
    """Draw an image for each prompt; the same call again resumes.

    Args:
        painter: From `choose_painter`.

    Raises:
        InputError: There are no prompts, two have the same id, or an id cannot name an image.
        ConfigError: The output holds a run of other settings.
        StorageError, EngineError: A store or an engine fails as a whole; what is done stays done.
    """
    output = storage.absolute(output)
    rows = [plan_prompt(one) for one in prompts]
    revision = painter.revision or ""
    outcome = run_rows(
        PaintTask(painter.model, revision),
        rows,
        output,
        painter,
        settings={"model_revision": revision},
        engines=engines,
        unit_size=unit_size,
    )
    if outcome.has_run:
        UnitShards(output, PAINTED).remove_leftovers(UnitFolder(output, PAINTED))
    return outcome


def plan_prompt(one: PromptToDraw) -> dict[str, Any]:
    """The planned row of a prompt."""
    check_shard_key(one.image_id)
    about = {"prompt": one.prompt, "number": one.number}
    payload = json.dumps(about, ensure_ascii=False)
    return {"image_id": one.image_id, "payload": payload, "source": one.source}


def _describe_drawing(row: Row, drawing: Drawing) -> Row:
    """The columns about a picture, and its files unless it shows nothing."""
    with Image.open(io.BytesIO(drawing.png)) as picture:
        (width, height), flaw = picture.size, find_flaw(picture)
    found: Row = {
        "seed": drawing.seed,
        "steps": drawing.steps,
        "guidance": drawing.guidance,
        "width": width,
        "height": height,
        "image_sha256": hashlib.sha256(drawing.png).hexdigest(),
        "status": "rejected" if flaw else "ok",
        "reason": flaw,
    }
    if flaw is None:
        facts = {name: (row | found)[name] for name in _FACTS}
        about = json.dumps(facts, ensure_ascii=False).encode()
        found["files"] = [
            {"ending": "png", "content": drawing.png},
            {"ending": "json", "content": about},
        ]
    return found
