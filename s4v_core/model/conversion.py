"""Converts checkpoints between the original ShareGPT4V / LLaVA-1.5 layout and ours, which
transformers and vLLM load; joins the parts of one, and merges adapters.

Works tensor by tensor, so that a 7B model needs only the memory of one output file. Before and
after writing, the tensors are compared with those that the config calls for.
"""

import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from transformers import LlavaConfig

from s4v_core import chat
from s4v_core.errors import ConfigError, InputError
from s4v_core.model import adapter_merge
from s4v_core.model.architecture import check_written, list_needed, refuse_differences
from s4v_core.model.builders import build_llava_config
from s4v_core.model.named_tensors import Tensors, open_ours
from s4v_core.model.names import EMBEDDINGS
from s4v_core.model.original_layout import ORIGINAL_CONFIG, to_original_layout
from s4v_core.model.processor import build_processor
from s4v_core.model.source_config import CLASS_AND_PATCH, build_text_config
from s4v_core.model.sources import (
    Parts,
    find_kind,
    gather_adapted,
    gather_joined,
    gather_original,
)
from s4v_core.model.vocabulary import append_rows, count_rows, grow_table, refuse_other_tokens
from s4v_core.model.weight_files import WeightWriter

__all__ = ["EMBEDDINGS", "append_rows", "convert", "join", "to_disk_layout", "to_original_layout"]

_COPIED = ("*.json", "*.jinja", "*.txt", "tokenizer.model")
"""Files of a checkpoint of ours that stay as they are when an adapter is merged."""

_OnTensor = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Conversion:
    """The outcome of a conversion.

    Attributes:
        layout: The written layout, "ours" or "original".
        left_out: Number of the source's tensors that were not written, by reason.
    """

    layout: str
    left_out: Counter[str] = field(default_factory=Counter)


def convert(
    source: Path,
    target: Path,
    tower: Path | None,
    on_tensor: _OnTensor,
    base: Path | None = None,
    projector: Path | None = None,
) -> Conversion:
    """Convert `source` to the other layout; `target` appears only when it is complete.

    Args:
        source: A checkpoint in either layout, or a LoRA adapter.
        tower: Folder of the vision tower; see `gather_original`.
        on_tensor: Called with the name of each written tensor.
        base: The model that an adapter is merged into.
        projector: An adapter's projector, if neither it nor its base has one.

    Raises:
        ConfigError: `target` exists, or `base` is given for something else than an adapter.
        InputError: `source` or another part is no checkpoint of this architecture, or incomplete.
    """
    with _write_whole(target) as partial:
        kind = find_kind(source)
        if kind == "adapter":
            return _convert_adapter(source, base, tower, projector, partial, on_tensor)
        if base is not None or projector is not None:
            flag = "base" if base is not None else "projector"
            raise ConfigError(f"{flag}: {source} is no adapter; leave out --{flag}")
        if kind == "ours":
            if tower is not None:
                raise ConfigError(f"tower: {source} is in our layout and has one; leave it out")
            to_original_layout(source, partial, on_tensor)
            return Conversion("original")
        if kind == "original":
            return Conversion("ours", to_disk_layout(source, tower, partial, on_tensor))
        raise InputError(str(source), _EXPLAINED[kind])


_JOIN = "python ray_jobs/convert.py --language {} --tower {} [--projector mm_projector.bin] DST"
_EXPLAINED = {
    "projector": "holds a projector alone; join it with the language model that it was trained "
    "for: " + _JOIN.format("VICUNA", "CLIP"),
    "language": "is a language model alone; join it with a vision tower: "
    + _JOIN.format("SRC", "CLIP"),
    "tower": "is a vision tower alone; join it with a language model: "
    + _JOIN.format("VICUNA", "SRC"),
}


def join(
    language: Path, tower: Path, projector: Path | None, target: Path, on_tensor: _OnTensor
) -> Conversion:
    """Join a language model, a vision tower and a projector to a LLaVA-1.5 in our layout.

    Args:
        projector: LLaVA's mm_projector.bin; None draws a random one, always the same.

    Raises:
        ConfigError: `target` exists.
        InputError: A part is missing, of another architecture, or does not fit the others.
    """
    with _write_whole(target) as partial:
        parts = gather_joined(language, tower, projector)
        _write_parts(parts, partial, on_tensor)
        return Conversion("ours", parts.left_out)


@contextmanager
def _write_whole(target: Path) -> Iterator[Path]:
    """A folder to write to, which gets the name `target` at the end, or is removed on failure."""
    if target.exists():
        raise ConfigError(f"target: {target} exists; name a folder that does not")
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)  # left by an interrupted conversion
    try:
        yield partial
        partial.rename(target)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def is_original(folder: Path) -> bool:
    """Whether a checkpoint folder is in the original layout.

    Raises:
        InputError: It is no checkpoint of this architecture.
    """
    kind = find_kind(folder)
    if kind not in ("ours", "original"):
        raise InputError(str(folder), "is neither a share4v / LLaVA-1.5 checkpoint nor one of ours")
    return kind == "original"


def to_disk_layout(
    source: Path, tower: Path | None, target: Path, on_tensor: _OnTensor
) -> Counter[str]:
    """Convert original to ours: names, `<image>` and `<pad>`, vocabulary rows, config, processor.

    Returns:
        Number of tensors that were left out, by reason.

    Raises:
        InputError: A part is missing, or of another architecture.
    """
    parts = gather_original(source, tower)
    _write_parts(parts, target, on_tensor)
    return parts.left_out


def _write_parts(parts: Parts, target: Path, on_tensor: _OnTensor) -> None:
    """Write a model in our layout, once all its tensors are known to fit its config."""
    place = parts.tokenizer_folder
    ours = _build_our_config(parts)
    rows = ours.text_config.vocab_size
    grown = {
        name: grow_table(parts.tensors[name], rows) for name in EMBEDDINGS if name in parts.tensors
    }
    tensors = parts.tensors | grown
    refuse_differences(place, tensors, list_needed(ours))
    _write_tensors(tensors, target, on_tensor)
    ours.save_pretrained(target)
    vision = ours.vision_config
    build_processor(
        parts.tokenizer,
        vision.image_size,
        vision.patch_size,
        pad=parts.config.get("image_aspect_ratio") == "pad",
        keeps_class_token=ours.vision_feature_select_strategy == "full",
    ).save_pretrained(target)
    (target / ORIGINAL_CONFIG).write_text(json.dumps(parts.config, indent=2))
    if (place / "tokenizer.model").exists():
        shutil.copy(place / "tokenizer.model", target / "tokenizer.model")
    check_written(target)
    refuse_other_tokens(parts.tokenizer, target)


def _write_tensors(tensors: Tensors, target: Path, on_tensor: _OnTensor) -> None:
    writer = WeightWriter(target)
    for name, tensor in tensors.items():
        writer.add(name, tensor.read())
        on_tensor(name)
    writer.close()


def _build_our_config(parts: Parts) -> LlavaConfig:
    config, tokenizer, place = parts.config, parts.tokenizer, parts.tokenizer_folder
    text = build_text_config(place, config)
    table = parts.tensors[EMBEDDINGS[0]]
    text.vocab_size = count_rows(tokenizer, table.shape[0])
    text.pad_token_id = tokenizer.pad_token_id
    layer, blocks = config.get("mm_vision_select_layer", -2), parts.vision.num_hidden_layers
    if not isinstance(layer, int) or not -blocks - 1 <= layer <= blocks:
        raise InputError(
            str(place),
            f"config.json: mm_vision_select_layer: found {layer}, allowed one number from "
            f"{-blocks - 1} to {blocks}",
        )
    stored = str(table.dtype).removeprefix("torch.")
    return build_llava_config(
        parts.vision,
        text,
        image_id=tokenizer.convert_tokens_to_ids(chat.IMAGE),
        pad_id=tokenizer.pad_token_id,
        feature_layer=layer,
        dtype=str(config.get("torch_dtype") or config.get("dtype") or stored),
        keeps_class_token=config.get("mm_vision_select_feature") == CLASS_AND_PATCH,
    )


def _convert_adapter(
    source: Path,
    base: Path | None,
    tower: Path | None,
    projector: Path | None,
    target: Path,
    on_tensor: _OnTensor,
) -> Conversion:
    """Merge an adapter into its base, which is written in our layout."""
    if base is None:
        made = json.loads((source / adapter_merge.CONFIG).read_text())
        name = made.get("base_model_name_or_path") if isinstance(made, dict) else None
        raise InputError(
            str(source),
            f"is a LoRA adapter alone (made for {name}); merge it into its model: "
            "python ray_jobs/convert.py SRC DST --base MODEL",
        )
    if find_kind(base) != "ours":
        parts = gather_adapted(source, base, tower, projector)
        _write_parts(parts, target, on_tensor)
        return Conversion("ours", parts.left_out)
    if tower is not None or projector is not None:
        raise ConfigError(f"base: {base} has a vision tower and projector; leave out --tower")
    tensors = open_ours(base)
    needed = list_needed(LlavaConfig.from_pretrained(base))
    refuse_differences(base, tensors, needed)
    merged = adapter_merge.merge(adapter_merge.open_adapter(source), tensors)
    refuse_differences(source, merged, needed)
    _write_tensors(merged, target, on_tensor)
    for path in [path for pattern in _COPIED for path in base.glob(pattern)]:
        if not path.name.endswith(".index.json"):
            shutil.copy(path, target / path.name)
    check_written(target)
    return Conversion("ours")
