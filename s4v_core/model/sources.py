"""Gathers the parts of a model to convert: language model, projector, vision tower, tokenizer."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import CLIPVisionConfig

from s4v_core.errors import InputError
from s4v_core.model import adapter_merge
from s4v_core.model.named_tensors import (
    PROJECTOR_FILE,
    Tensors,
    draw_projector,
    open_originals,
    open_projector,
    refuse_linear_projector,
)
from s4v_core.model.names import EMBEDDINGS, PROJECTOR, TOWER
from s4v_core.model.source_config import (
    NO_FOLDER,
    read_config,
    read_tower_config,
    refuse_other_languages,
    refuse_other_originals,
    refuse_other_resolution,
)
from s4v_core.model.tower_choice import choose_tower
from s4v_core.model.vocabulary import load_source_tokenizer
from s4v_core.model.weight_files import list_weight_files

Kind = Literal["ours", "original", "language", "tower", "adapter", "projector"]


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a model in the original layout.

    Attributes:
        config: Config in the original layout.
        vision: Config of the vision tower.
        tokenizer: Tokenizer with `<image>` and `<pad>`.
        tokenizer_folder: Folder that it was read from.
        tensors: Tensors by name on disk; the embeddings as the source has them.
        left_out: Number of the source's tensors that are not taken, by reason.
    """

    config: dict[str, Any]
    vision: CLIPVisionConfig
    tokenizer: Any
    tokenizer_folder: Path
    tensors: Tensors
    left_out: Counter[str]


def find_kind(folder: Path) -> Kind:
    """Tell which kind of checkpoint a folder holds.

    Raises:
        InputError: There is no such folder, or it is none of these kinds.
    """
    if not folder.is_dir():
        raise InputError(str(folder), NO_FOLDER)
    is_whole = bool(list_weight_files(folder))
    if not is_whole and (folder / adapter_merge.CONFIG).exists():
        return "adapter"
    if not is_whole and (folder / PROJECTOR_FILE).exists():
        return "projector"
    config = read_config(folder)
    if config.get("architectures") == ["LlavaForConditionalGeneration"]:
        return "ours"
    if "mm_vision_tower" in config:
        return "original"
    if config.get("model_type") in ("clip", "clip_vision_model"):
        return "tower"
    names = config.get("architectures") or []
    if config.get("model_type") == "llama" or any(str(n).endswith("ForCausalLM") for n in names):
        return "language"
    raise InputError(str(folder), "is neither a share4v / LLaVA-1.5 checkpoint nor one of ours")


def gather_original(source: Path, tower: Path | None) -> Parts:
    """Gather the parts of a checkpoint in the original layout.

    Args:
        tower: Folder of the vision tower; None is `vision_tower` inside `source`, or the tower
            inside the source's own files. The stock tower is never used in place of a tuned one.

    Raises:
        InputError: A part is missing, of another architecture, or contradicts another one.
    """
    config = read_config(source)
    refuse_other_originals(source, config)
    left_out: Counter[str] = Counter()
    tensors = open_originals(source, left_out)
    refuse_linear_projector(source, tensors)
    inside = {name: tensors.pop(name) for name in list(tensors) if name.startswith(TOWER)}
    vision, tensors_of_tower = choose_tower(source, config, inside, tower, left_out)
    tokenizer = load_source_tokenizer(source, _find_rows(source, config, tensors))
    tensors = _untie_head(source, config, tensors) | tensors_of_tower
    return Parts(config, vision, tokenizer, source, tensors, left_out)


def gather_joined(language: Path, tower: Path, projector: Path | None) -> Parts:
    """Gather a LLaVA-1.5 from a language model, a vision tower and a projector.

    Args:
        language: Folder of a Llama such as Vicuna.
        tower: Folder of a CLIP, whole or its vision half.
        projector: LLaVA's mm_projector.bin, or its folder; None draws a random one, always the
            same.

    Raises:
        InputError: A part is missing, of another architecture, or does not fit the others.
    """
    config = read_config(language)
    refuse_other_languages(language, config)
    left_out: Counter[str] = Counter()
    vision = read_tower_config(tower)
    tensors = open_originals(language, left_out)
    tokenizer = load_source_tokenizer(language, _find_rows(language, config, tensors))
    tensors = _untie_head(language, config, tensors)
    tensors |= open_originals(tower, left_out)
    widths = (vision.hidden_size, config["hidden_size"])
    tensors |= draw_projector(*widths) if projector is None else open_projector(projector)
    config = config | {
        "architectures": ["LlavaLlamaForCausalLM"],
        "model_type": "llava",
        "mm_vision_tower": tower.resolve().name,
        "mm_hidden_size": vision.hidden_size,
        "mm_projector_type": "mlp2x_gelu",
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
    }
    return Parts(config, vision, tokenizer, language, tensors, left_out)


_ARTICLES = {"tower": "a tower", "adapter": "an adapter", "projector": "a projector"}


def gather_adapted(adapter: Path, base: Path, tower: Path | None, projector: Path | None) -> Parts:
    """Gather an adapter's base and merge the adapter into it.

    Args:
        base: A checkpoint in the original layout, or a language model such as Vicuna; LLaVA's
            adapter folders bring the config and the projector then, and `tower` is needed.

    Raises:
        InputError: A part is missing, or the parts do not fit.
    """
    opened = adapter_merge.open_adapter(adapter)
    parts = _gather_base(base, tower, projector)
    has_projector = any(name.startswith(PROJECTOR) for name in opened.replaced)
    if find_kind(base) == "language" and projector is None and not has_projector:
        raise InputError(
            str(adapter), "brings no projector, nor does its base; name one with --projector"
        )
    if (adapter / "config.json").exists():
        own = read_config(adapter)
        refuse_other_originals(adapter, own)
        refuse_other_resolution(adapter, own, tower or base, parts.vision)
        for name, value in own.items():
            if name.startswith(("mm_", "image_")) and name != "mm_vision_tower":
                parts.config[name] = value
    tied = parts.config.get("tie_word_embeddings")
    if tied and (changed := {*opened.factors, *opened.replaced} & {*EMBEDDINGS}):
        raise InputError(str(adapter), f"changes {min(changed)}, which its base ties to another")
    return replace(parts, tensors=adapter_merge.merge(opened, parts.tensors))


def _gather_base(base: Path, tower: Path | None, projector: Path | None) -> Parts:
    """Gather the model that an adapter is merged into."""
    kind = find_kind(base)
    if kind not in ("original", "language"):
        raise InputError(str(base), f"is {_ARTICLES[kind]}, and no model to merge an adapter into")
    if kind == "original":
        if projector is not None:
            raise InputError(str(base), "has a projector; leave out --projector")
        return gather_original(base, tower)
    if tower is None:
        raise InputError(str(base), "is a language model alone; name its vision tower with --tower")
    return gather_joined(base, tower, projector)


def _find_rows(source: Path, config: Mapping[str, Any], tensors: Tensors) -> int:
    """Rows of the embedding matrix; the head and the config must have as many."""
    if EMBEDDINGS[0] not in tensors:
        raise InputError(
            str(source),
            "holds no embeddings (model.embed_tokens.weight), so no language model; join its "
            "parts with one: convert.py --language VICUNA --tower CLIP --projector FILE DST",
        )
    rows = {name: tensors[name].shape[0] for name in EMBEDDINGS if name in tensors}
    counts = {*rows.values(), config.get("vocab_size", rows[EMBEDDINGS[0]])}
    if len(counts) > 1:
        raise InputError(
            str(source),
            f"config.json says vocab_size {config.get('vocab_size')}, and the matrices of tokens "
            f"have {' and '.join(map(str, rows.values()))} rows",
        )
    return counts.pop()


def _untie_head(source: Path, config: Mapping[str, Any], tensors: Tensors) -> Tensors:
    """Give a model whose head is its embedding matrix a head of its own."""
    if not config.get("tie_word_embeddings"):
        return tensors
    table, head = EMBEDDINGS
    if head in tensors and not torch.equal(tensors[table].read(), tensors[head].read()):
        raise InputError(
            str(source),
            "config.json ties lm_head to the embeddings, but the files hold another one",
        )

    return tensors | {head: tensors[table]}
