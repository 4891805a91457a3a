"""Parameter names of the three layouts, as pure text.

original: share4v / LLaVA checkpoints; the tuned vision tower lies in a folder of its own.
disk: what this project writes; transformers and vLLM both load it.
memory: transformers 5, while a model is alive.
"""

_MEMORY_TO_DISK = (
    ("model.vision_tower.", "vision_tower.vision_model."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "language_model.model."),
    ("lm_head.", "language_model.lm_head."),
)
_ORIGINAL_TO_DISK = (
    ("model.vision_tower.vision_tower.vision_model.", "vision_tower.vision_model."),
    ("vision_model.", "vision_tower.vision_model."),
    ("model.mm_projector.0.", "multi_modal_projector.linear_1."),
    ("model.mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.embed_tokens.", "language_model.model.embed_tokens."),
    ("model.layers.", "language_model.model.layers."),
    ("model.norm.", "language_model.model.norm."),
    ("lm_head.", "language_model.lm_head."),
)
_RECOMPUTED = (".rotary_emb.inv_freq", ".position_ids")
"""Endings of buffers that old checkpoints store and every loader computes again."""

TOWER = "vision_tower.vision_model."
EMBEDDINGS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
"""Disk names of the tensors with one row per token."""


def disk_name_of_memory(name: str) -> str:
    """A live model's parameter -> its name on disk.

    Raises:
        KeyError: It is no parameter of LLaVA-1.5.
    """
    return _replaced(name, _MEMORY_TO_DISK)


def disk_name_of_original(name: str) -> str | None:
    """A share4v / LLaVA tensor -> its name on disk; None for buffers that are computed again.

    Raises:
        KeyError: It is no tensor of LLaVA-1.5.
    """
    return None if name.endswith(_RECOMPUTED) else _replaced(name, _ORIGINAL_TO_DISK)


def original_name_of_disk(name: str) -> str:
    """The way back; a tower's tensor gets its name in the tower's own folder.

    Raises:
        KeyError: It is no tensor of LLaVA-1.5.
    """
    return _replaced(name, tuple((disk, original) for original, disk in _ORIGINAL_TO_DISK[1:]))


def _replaced(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise KeyError(f"{name}: no parameter of LLaVA-1.5")
