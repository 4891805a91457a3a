"""How a painter draws: the settings that make its pictures, and what is wrong with a picture."""

from typing import Any

import numpy as np
from PIL import Image
from pydantic import Field

from s4v_core.config import Config

BLACK, BLANK = "black_image", "blank_image"
"""Reasons of pictures that show nothing."""

_FLAT_LEVELS = 2.0
"""Deviation in levels below which a picture shows nothing."""


class PaintConfig(Config):
    """How a painter draws. Recorded in every row; identifies a run."""

    width: int | None = Field(None, ge=8)
    """Width of a picture in pixels. Default: what the pipeline draws best."""
    height: int | None = Field(None, ge=8)
    """Height of a picture in pixels. Default: what the pipeline draws best."""
    steps: int | None = Field(None, ge=1)
    """Denoising steps. Default: the pipeline's own."""
    guidance: float | None = Field(None, ge=0)
    """How strongly a picture follows its prompt (guidance scale). Default: the pipeline's own."""
    negative_prompt: str = ""
    """Text that pictures are led away from, for pipelines that take one."""
    seed: int = Field(0, ge=0)
    """Base seed. Combined with a picture's prompt and number, so that it does not depend on its
    batch."""

    def list_arguments(self) -> dict[str, Any]:
        """The settings that are set, by the names that pipelines have for it."""
        found = {
            "width": self.width,
            "height": self.height,
            "num_inference_steps": self.steps,
            "guidance_scale": self.guidance,
            "negative_prompt": self.negative_prompt or None,
        }
        return {name: value for name, value in found.items() if value is not None}


def find_flaw(picture: Image.Image) -> str | None:
    """black_image or blank_image, if a picture shows nothing: fp16 that overflows draws black."""
    levels = np.asarray(picture.convert("RGB"), np.float32)
    if float(levels.std((0, 1)).max()) >= _FLAT_LEVELS:  # two colours may be equally bright
        return None
    return BLACK if float(levels.mean()) < 2 * _FLAT_LEVELS else BLANK
