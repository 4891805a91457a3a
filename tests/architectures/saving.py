"""Saves a test checkpoint: random weights that look at the picture, and the files around them as
published repositories have them."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import load_file, save_file

from tests.architectures.vocabulary import Words, write_json

_GAIN = 1.5
"""Standard deviation of a layer's outputs for inputs of 1: wide enough that the picture, and not
the position alone, decides the next token."""

_LIKELY_GAIN = 2.0
"""Factor on the output row of a likely token. Where it is the turn's end, about half of the answers
end within 24 tokens, so that stops are tried with every architecture."""

_TIED_GAIN = 0.2
"""Factor on an embedding that is the output layer, too."""

TemplatePlace = Literal["json", "jinja", "tokenizer", "named", "nowhere"]


@dataclass(frozen=True)
class Template:
    """A chat template and the place where its repository has it.

    Attributes:
        place: json (chat_template.json), jinja (chat_template.jinja), tokenizer
            (tokenizer_config.json), named (a list of named ones there), or nowhere.
    """

    text: str
    place: TemplatePlace


NO_TEMPLATE = Template("", "nowhere")


def save_checkpoint(
    folder: Path,
    model: torch.nn.Module,
    words: Words,
    template: Template,
    *,
    likely: str,
    generation: Mapping[str, Any],
    files: Mapping[str, Mapping[str, Any]],
) -> None:
    """Write a checkpoint that transformers and vLLM load.

    Args:
        likely: Token whose chance is raised: one that ends an answer, or a thought.
        generation: Contents of generation_config.json.
        files: The processor's own files by name, for example preprocessor_config.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    randomise(model, words[likely])
    model.eval().save_pretrained(folder)
    if str(model.config.vision_config.model_type).startswith(("clip", "siglip")):
        _rename_vision_tower(folder / "model.safetensors")
    save_template(folder, words, template)
    write_json(folder / "generation_config.json", dict(generation))
    for name, content in files.items():
        write_json(folder / name, dict(content))


def save_template(folder: Path, words: Words, template: Template) -> None:
    """Write the tokenizer's files, and the template to its place."""
    in_tokenizer: Any = None
    if template.place == "tokenizer":
        in_tokenizer = template.text
    if template.place == "named":
        in_tokenizer = [
            {"name": "default", "template": template.text},
            {"name": "tool_use", "template": "{{ raise_exception('This one is for tools.') }}"},
        ]
    words.save(folder, in_tokenizer)
    if template.place == "json":
        write_json(folder / "chat_template.json", {"chat_template": template.text})
    if template.place == "jinja":
        (folder / "chat_template.jinja").write_text(template.text)


def randomise(model: torch.nn.Module, likely: int, seed: int = 0) -> None:
    """Draw all matrices anew; vectors (norms, biases) keep what transformers gave them."""
    dice = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                is_expert = parameter.dim() == 3 and "experts" in name
                inputs = parameter.shape[1] if is_expert else parameter[0].numel()
                parameter.normal_(std=_GAIN / inputs**0.5, generator=dice)
        output = model.get_output_embeddings().weight
        if output is model.get_input_embeddings().weight:
            # Else the last token would always be its own successor, whatever the picture shows.
            output *= _TIED_GAIN
        else:
            output[likely] *= _LIKELY_GAIN


_TOWER = re.compile(
    r"^((?:model\.)?vision_tower\.)"
    r"(embeddings|encoder|pre_layrnorm|post_layernorm|head)\."
)


def _rename_vision_tower(path: Path) -> None:
    """Give CLIP's and SigLIP's tensors the level `vision_model` back, which transformers 5 leaves
    out of the names and published checkpoints have."""
    tensors = load_file(path)
    renamed = {_TOWER.sub(r"\1vision_model.\2.", name): tensor for name, tensor in tensors.items()}
    save_file(renamed, path, metadata={"format": "pt"})
