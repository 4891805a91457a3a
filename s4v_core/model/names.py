"""Translates parameter names between three layouts.

original: share4v / LLaVA checkpoints, which keep the tuned vision tower in a folder of its own.
disk: The checkpoints that this project writes; transformers and vLLM both load them.
memory: A loaded model of transformers 5.
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
_ANY_TO_DISK = (
    *_ORIGINAL_TO_DISK,
    ("mm_projector.0.", "multi_modal_projector.linear_1."),
    ("mm_projector.2.", "multi_modal_projector.linear_2."),
    ("model.vision_tower.vision_model.", "vision_tower.vision_model."),
    *_MEMORY_TO_DISK,
    ("vision_tower.vision_model.", "vision_tower.vision_model."),
    ("vision_tower.", "vision_tower.vision_model."),
    ("multi_modal_projector.", "multi_modal_projector."),
    ("language_model.", "language_model."),
)
"""Prefixes of all layouts, those of transformers 4 included, which trainers of adapters write."""

_RECOMPUTED = (".rotary_emb.inv_freq", ".position_ids")
"""Endings of buffers that old checkpoints store and every loader recomputes."""

_TEXT_HALF = ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
"""Beginnings of a CLIPModel's tensors that a vision tower does not have."""

TOWER = "vision_tower.vision_model."
"""Prefix of the vision tower's disk names."""

PROJECTOR = "multi_modal_projector."
"""Prefix of the projector's disk names."""

EMBEDDINGS = ("language_model.model.embed_tokens.weight", "language_model.lm_head.weight")
"""Disk names of the tensors with one row per token."""


def disk_name_of_memory(name: str) -> str:
    """Name on disk of a loaded model's parameter.

    Raises:
        KeyError: LLaVA-1.5 has no such parameter.
    """
    return _replace_prefix(name, _MEMORY_TO_DISK)


def disk_name_of_original(name: str) -> str | None:
    """Name on disk of a share4v / LLaVA tensor; None for buffers that are recomputed.

    Raises:
        KeyError: LLaVA-1.5 has no such tensor.
    """
    return None if name.endswith(_RECOMPUTED) else _replace_prefix(name, _ORIGINAL_TO_DISK)


def disk_name_of_any(name: str) -> str:
    """Name on disk of a tensor that is named as in any layout.

    Raises:
        KeyError: LLaVA-1.5 has no such tensor.
    """
    return _replace_prefix(name, _ANY_TO_DISK)


def explain_left_out(name: str) -> str | None:
    """Why a tensor of an original layout or of a CLIP has no place in ours; None if it has one."""
    if name.endswith(_RECOMPUTED):
        return "buffers that every loader recomputes"
    return "the text half of CLIP" if name.startswith(_TEXT_HALF) else None


def original_name_of_disk(name: str) -> str:
    """Original name of a tensor on disk; for the tower's, the name in the tower's own folder.

    Raises:
        KeyError: LLaVA-1.5 has no such tensor.
    """
    return _replace_prefix(
        name, tuple((disk, original) for original, disk in _ORIGINAL_TO_DISK[1:])
    )


def _replace_prefix(name: str, pairs: tuple[tuple[str, str], ...]) -> str:
    for old, new in pairs:
        if name.startswith(old):
            return new + name.removeprefix(old)
    raise KeyError(f"{name}: no parameter of LLaVA-1.5")
