"""Memory of GPUs by their names, and whether a job fits into it."""

import re

_MEMORY_GB = {
    "A100": 40,
    "A6000": 48,
    "A10": 24,
    "A10G": 24,
    "B200": 180,
    "H100": 80,
    "H200": 141,
    "L4": 24,
    "L40": 48,
    "L40S": 48,
    "T4": 16,
    "V100": 16,
}
"""GB of a GPU from the makers' data sheets; the smallest variant if there are several."""

_USABLE = 0.9
"""Share of the memory that the estimate may take, because of what it does not model."""


def find_memory_gb(name: str) -> float | None:
    """GB of a GPU by Ray's or the driver's name for it; None if it is not known. A size in the name
    counts, as in A100-80G."""
    words = name.upper().replace("-", " ").replace("_", " ").split()
    for word in words:
        if size := re.fullmatch(r"(\d+)GB?", word):
            return float(size[1])
    return next((float(_MEMORY_GB[word]) for word in words if word in _MEMORY_GB), None)


def judge_fit(need_gb: float, memory_gb: float | None) -> str:
    """A sentence that says whether a worker's need, with the longest samples, fits a GPU."""
    if memory_gb is None:
        need = f"memory: {need_gb:.1f} GB per GPU with the longest samples"
        return f"{need}; whether that fits is not known, name the GPU with --accelerator"
    share = need_gb / memory_gb
    need = f"memory: {need_gb:.1f} of {memory_gb:.0f} GB per GPU with the longest samples"
    if share > 1:
        return (
            f"{need}: does not fit; take a smaller --device-batch-size, more --workers, or "
            "activation checkpointing if it is off"
        )
    if share > _USABLE:
        return f"{need}: may not fit, because some needs are not modelled (below)"
    return f"{need}: fits"
