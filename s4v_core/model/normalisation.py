"""The mean and standard deviation by which a checkpoint's processor normalises pixels."""

import json
from dataclasses import dataclass
from pathlib import Path

from s4v_core.errors import ConfigError

_NAMES = ("processor_config.json", "preprocessor_config.json")
"""Files that hold them; transformers 5 writes the first, older versions the second."""


@dataclass(frozen=True, slots=True)
class Normalisation:
    """Mean and standard deviation of red, green and blue, where a pixel is between 0 and 1."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


CLIP_NORMALISATION = Normalisation(
    (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
)
"""The numbers of OpenAI's CLIP, for checkpoints that do not name any."""


def read_normalisation(folder: Path) -> Normalisation:
    """Read them from a checkpoint folder; where its files name none, they are CLIP's.

    Raises:
        ConfigError: They are not three numbers each, or the processor does not normalise so.
    """
    for name in _NAMES:
        path = folder / name
        found = json.loads(path.read_text()) if path.exists() else {}
        images = found.get("image_processor") or found
        if "image_mean" in images or "image_std" in images:
            return _check(path, images)
    return CLIP_NORMALISATION


def _check(path: Path, images: dict[str, object]) -> Normalisation:
    mean, std = images.get("image_mean"), images.get("image_std")
    if not (_is_triple(mean) and _is_triple(std)):
        raise ConfigError(
            f"model: {path}: found image_mean {mean} and image_std {std}, "
            "allowed three numbers each; correct the file"
        )
    if images.get("do_normalize") is False or images.get("do_rescale") is False:
        raise ConfigError(
            f"model: {path}: found a processor that does not normalise pixels "
            "(do_normalize, do_rescale), allowed are those that do, as CLIP's"
        )
    return Normalisation(tuple(mean), tuple(std))  # type: ignore[arg-type]


def _is_triple(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(isinstance(part, (int, float)) for part in value)
    )
