"""Compares the tensors of a checkpoint with those that its config calls for.

The model is built on the meta device, so that no weights are needed.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import AutoProcessor, LlavaConfig, LlavaForConditionalGeneration

from s4v_core import chat
from s4v_core.errors import InputError
from s4v_core.model.names import disk_name_of_memory
from s4v_core.model.weight_files import StoredTensor, open_weights

Shapes = dict[str, tuple[int, ...]]


def list_needed(config: LlavaConfig) -> Shapes:
    """List shape and name on disk of each tensor that transformers loads for this config."""
    with torch.device("meta"):
        model = LlavaForConditionalGeneration(config)
    needed = {disk_name_of_memory(k): tuple(v.shape) for k, v in model.state_dict().items()}
    if config.tie_word_embeddings:
        del needed["language_model.lm_head.weight"]
    return needed


def refuse_differences(place: Path, found: Mapping[str, StoredTensor], needed: Shapes) -> None:
    """Refuse tensors that are not exactly those of the architecture.

    Args:
        place: Folder that the sentence names.

    Raises:
        InputError: Tensors are missing, have no place, or have another shape or type.
    """
    if missing := sorted(needed.keys() - found.keys()):
        raise InputError(
            str(place),
            f"lacks {len(missing)} of the model's {len(needed)} tensors: {_name_some(missing)}",
        )
    if strange := sorted(found.keys() - needed.keys()):
        raise InputError(
            str(place),
            f"holds {len(strange)} tensors that LLaVA-1.5 with a Llama has no place for: "
            f"{_name_some(strange)}",
        )
    for name, shape in needed.items():
        if found[name].shape != shape:
            raise InputError(
                str(place), f"{name}: found the shape {found[name].shape}, needed {shape}"
            )
        if found[name].dtype is None:
            raise InputError(
                str(place),
                f"{name}: found {found[name].read().dtype}, allowed floating-point numbers of 16 "
                "bits or more; convert the model in full precision",
            )


def check_written(folder: Path) -> None:
    """Open a written checkpoint as transformers does, and compare it with its architecture.

    Raises:
        InputError: It differs, or its processor writes another image token than the model knows.
    """
    config = LlavaConfig.from_pretrained(folder)
    refuse_differences(folder, open_weights(folder), list_needed(config))
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=False)
    image_id = processor.tokenizer.convert_tokens_to_ids(chat.IMAGE)
    if (
        image_id != config.image_token_index
        or len(processor.tokenizer) > config.text_config.vocab_size
    ):
        raise InputError(
            str(folder), "tokenizer and model know different tokens; please report this"
        )


def _name_some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (", ..." if names[2:] else "")
