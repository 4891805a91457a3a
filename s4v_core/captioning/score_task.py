"""Scoring the captions of a run as a task of the flow: image and caption become a score row."""

from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from s4v_core.engines.requests import Generator, Picture
from s4v_core.engines.scorer_spec import ScorerSpec
from s4v_core.engines.scoring import find_scorer
from s4v_core.flow.task import Prepared, Row, Task
from s4v_core.images.guard import GuardedDecoder
from s4v_core.images.policy import DecodeConfig, Framing, Refused
from s4v_core.inputs.web_policy import WebPolicy
from s4v_core.records.captions import caption_units
from s4v_core.records.quality import QUALITY

_FRAMING = Framing("fit", 512)
"""Longest side in pixels; CLIP and SigLIP take 224 to 512."""

_WEB = WebPolicy()

NO_CAPTION = "no_caption"
"""Reason of an image without a caption to score."""


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """An image on its way to the scorer.

    Attributes:
        reason: Why there is nothing to score; None if there is.
    """

    image_id: str
    caption: str = ""
    reason: str | None = None


@dataclass(frozen=True)
class ScoreTask(Task[CaptionedImage]):
    """Scores one caption per row.

    Attributes:
        output: Folder of the caption run.
        scorer: The checkpoint, as workers load it.
        model: The checkpoint, as rows name it.
        reading: Changes with every process that scores, so that no worker remembers captions that
            were replaced since.
    """

    output: str
    scorer: ScorerSpec
    model: str
    reading: str
    decode: DecodeConfig
    web: WebPolicy = _WEB
    contract = QUALITY

    @property
    def picture_bytes(self) -> int:  # type: ignore[override]
        return _FRAMING.max_bytes

    @property
    def max_file_bytes(self) -> int:  # type: ignore[override]
        return self.decode.max_file_mib << 20

    def prepare(
        self, planned: dict[str, Any], content: bytes | str | None
    ) -> Prepared[CaptionedImage]:
        captions = _read_captions(self.output, planned["unit"], self.reading)
        about = CaptionedImage(planned["image_id"], captions.get(planned["image_id"], ""))
        if not about.caption:
            return Prepared(replace(about, reason=NO_CAPTION))
        if isinstance(content, str) or content is None:
            return Prepared(replace(about, reason=content or "not_found"))
        decoded = _decoder(self.decode).decode(content)
        if isinstance(decoded, Refused):
            return Prepared(replace(about, reason=decoded.reason))
        shape = (decoded.pixel_height, decoded.pixel_width, 3)
        return Prepared(about, (np.frombuffer(decoded.pixels, np.uint8).reshape(shape),))

    async def answer(
        self, about: CaptionedImage, pictures: tuple[Picture, ...], engine: Generator
    ) -> Row:
        if about.reason is not None:
            return self.fail(about, about.reason)
        score = await find_scorer(self.scorer).score(pictures[0], about.caption)
        if isinstance(score, str):
            return self.fail(about, score)
        return self._make_row(about, score, None)

    def fail(self, about: CaptionedImage, reason: str) -> Row:
        return self._make_row(about, None, about.reason or reason)

    def _make_row(self, about: CaptionedImage, score: float | None, reason: str | None) -> Row:
        return {
            "image_id": about.image_id,
            "score": score,
            "scorer": self.model,
            "scorer_revision": self.scorer.revision,
            "status": "ok" if reason is None else "error",
            "reason": reason,
            "attempts": 1 if reason is None else 0,
        }


@lru_cache(maxsize=2)
def _read_captions(output: str, unit: int, reading: str) -> dict[str, str]:
    """Captions of a unit's ok rows by image id."""
    columns = ("image_id", "caption", "status")
    rows = caption_units(output).read_columns(unit, columns).to_pylist()
    return {row["image_id"]: row["caption"] for row in rows if row["status"] == "ok"}


@lru_cache(maxsize=1)
def _decoder(config: DecodeConfig) -> GuardedDecoder:
    """One child per worker process: starting one costs as much as decoding ten images."""
    return GuardedDecoder(config, _FRAMING)
