"""Attention of the language model in rows that several samples share.

A sample never attends to its neighbours in a row. What separates them differs by kernel: sdpa gets
a dense mask, and none at all where no row is shared; flex gets a mask of blocks; flash computes all
samples as one long row and gets the places where they begin. No kernel waits for the device.
"""

from typing import Any

import torch
from torch.nn.attention.flex_attention import create_block_mask
from transformers import AttentionInterface

from s4v_core.errors import ConfigError
from s4v_core.training.data.collation import MicroBatch

_FLASH = "s4v_flash"
_IMPLEMENTATIONS = {"sdpa": "sdpa", "flex": "flex_attention", "flash": _FLASH}
"""Names by which transformers knows the kernels."""

_FLASH_CAPABILITY = (8, 0)
"""Oldest CUDA compute capability that FlashAttention is made for: Ampere."""


def choose_kernel(wanted: str, device: torch.device, dtype: torch.dtype) -> str:
    """Choose the kernel of a worker: sdpa, flex or flash.

    Args:
        wanted: One of these, or auto.

    Raises:
        ConfigError: The device or the precision does not have the wanted kernel.
    """
    if wanted != "flash":
        return "sdpa" if wanted == "auto" else wanted
    if dtype != torch.bfloat16:
        raise ConfigError("attention: found flash with precision fp32, allowed bf16 there")
    found = torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0)
    if found < _FLASH_CAPABILITY:
        raise ConfigError(
            f"attention: found flash on a device of compute capability {found[0]}.{found[1]}, "
            "needed 8.0 (A100) or newer; use sdpa or flex"
        )
    return wanted


def set_kernel(model: Any, kernel: str) -> None:
    """Make the language model use a kernel; the vision tower keeps sdpa without a mask."""
    model.model.language_model.config._attn_implementation = _IMPLEMENTATIONS[kernel]


def shape_rows(tensor_RT: torch.Tensor, kernel: str) -> torch.Tensor:
    """The rows as the kernel wants them: for flash they are one long row."""
    return tensor_RT.flatten(0, 1).unsqueeze(0) if kernel == "flash" else tensor_RT


def build_arguments(batch: MicroBatch, kernel: str) -> dict[str, Any]:
    """Build the arguments of every layer that keep the samples of a row apart."""
    if kernel == "flash":
        return {
            "attention_mask": None,
            "segment_starts": batch.segment_starts,
            "longest_segment": batch.longest_segment,
        }
    segments = (batch.positions_RT == 0).cumsum(1)
    if kernel == "flex":
        return {"attention_mask": _build_block_mask(segments)}
    return {"attention_mask": _build_dense_mask(segments) if batch.is_packed else None}


def _build_dense_mask(segments_RT: torch.Tensor) -> torch.Tensor:
    """Booleans of shape (R, 1, T, T): whether a position sees another one."""
    together = segments_RT[:, None, :, None] == segments_RT[:, None, None, :]
    return together.tril()


def _build_block_mask(segments_RT: torch.Tensor) -> Any:
    def is_seen(row: Any, head: Any, query: Any, key: Any) -> Any:
        return (query >= key) & (segments_RT[row, query] == segments_RT[row, key])

    rows, places = segments_RT.shape
    return create_block_mask(is_seen, rows, None, places, places, segments_RT.device)


def run_flash(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    starts: torch.Tensor,
    longest: int,
    scale: float,
) -> torch.Tensor:
    """Causal attention inside each segment, by the FlashAttention kernel that torch contains.

    Args:
        query, key, value: Tensors of shape (positions, heads, width of a head).
        starts: Bounds of the segments, int32.
        longest: Length of the longest segment.
    """
    from torch.nn.attention.varlen import varlen_attn

    causal = (-1, 0)  # how far a position sees to its left and right; -1 is without a limit
    is_shared = query.shape[1] != key.shape[1]
    found = varlen_attn(
        query,
        key,
        value,
        starts,
        starts,
        longest,
        longest,
        scale=scale,
        window_size=causal,
        enable_gqa=is_shared,
    )
    assert isinstance(found, torch.Tensor), "no auxiliary output was asked for"
    return found


def _attend_in_segments(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: None,
    *,
    scaling: float,
    segment_starts: torch.Tensor,
    longest_segment: int,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """An attention function of transformers: tensors of shape (1, heads, positions, width)."""
    q, k, v = (tensor[0].transpose(0, 1) for tensor in (query, key, value))
    return run_flash(q, k, v, segment_starts, longest_segment, scaling).unsqueeze(0), None


AttentionInterface.register(_FLASH, _attend_in_segments)
