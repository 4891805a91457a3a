"""Tiny checkpoints as people have them: variants of the original layout, parts and adapters."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel, LlavaForConditionalGeneration

from ray_jobs import convert
from s4v_core.errors import ConfigError, InputError
from s4v_core.model.weight_files import read_tensors
from tests.model.reference import Weights, reference_logits
from tests.model.synthetic import write_original

HEADS = (2, 4)
VOCABULARY = 509
PROJECTOR = "model.mm_projector."
INSIDE = "model.vision_tower.vision_tower."
"""Prefix of the tower's tensors in the main files of LLaVA, before those of its own folder."""


def write_loud(folder: Path) -> Path:
    """Write an original checkpoint whose logits depend clearly on each part."""
    write_original(folder)
    chance = torch.Generator().manual_seed(3)

    def draw(tensors: Weights) -> Weights:
        return {
            name: torch.randn(value.shape, generator=chance) * 1.2 / value.shape[-1] ** 0.5
            if value.dim() > 1
            else value
            for name, value in tensors.items()
        }

    edit_tensors(folder, draw)
    edit_tensors(folder / "vision_tower", draw)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Change settings of a config.json; None removes one."""
    path = folder / "config.json"
    changed = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({k: v for k, v in changed.items() if v is not None}))


def edit_tensors(folder: Path, change: Callable[[Weights], Weights]) -> None:
    """Change the tensors of a folder, which become one pickled file."""
    tensors = change(load(folder))
    for path in [*folder.glob("*.bin"), *folder.glob("*.safetensors")]:
        path.unlink()
    torch.save({k: v.clone() for k, v in tensors.items()}, folder / "pytorch_model.bin")


def load(folder: Path) -> Weights:
    return {name: tensor.clone() for name, tensor in read_tensors(folder)}


def write_language(folder: Path, original: Path) -> Path:
    """Write the language model of an original checkpoint alone, as Vicuna is published."""
    shutil.copytree(original, folder, ignore=shutil.ignore_patterns("vision_tower", "*.bin"))
    tensors = {k: v for k, v in load(original).items() if not k.startswith(PROJECTOR)}
    torch.save(tensors, folder / "pytorch_model.bin")
    config = json.loads((folder / "config.json").read_text())
    kept = {k: v for k, v in config.items() if not k.startswith(("mm_", "image_"))}
    kept |= {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def write_projector(file: Path, original: Path) -> Path:
    """Write the projector of an original checkpoint alone, as LLaVA's first stage saves it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save({k: v for k, v in load(original).items() if k.startswith(PROJECTOR)}, file)
    return file


def write_clip(folder: Path, original: Path, change: float = 0.0) -> Path:
    """Write the tower of an original checkpoint as a whole CLIPModel, text half included.

    Args:
        change: Is added to the tower's first matrix, so that it is another tower.
    """
    vision = json.loads((original / "vision_tower" / "config.json").read_text())
    text = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    text |= {"num_hidden_layers": 1, "vocab_size": 99}
    config = CLIPConfig(vision_config=vision, text_config=text, projection_dim=64)
    state = CLIPModel(config).state_dict()
    text_half = {k: v.clone() for k, v in state.items() if not k.startswith("vision_model.")}
    tower = load(original / "vision_tower")
    if change:
        tower["vision_model.embeddings.patch_embedding.weight"] += change
    places = {
        f"{half}_model.embeddings.position_ids": torch.arange(9) for half in ("text", "vision")
    }
    folder.mkdir(parents=True)
    torch.save({**text_half, **tower, **places}, folder / "pytorch_model.bin")
    config.architectures = ["CLIPModel"]
    config.save_pretrained(folder)
    return folder


def write_adapter(
    folder: Path, tensors: Weights, trained_beside: Weights | None = None, **settings: Any
) -> Path:
    """Write a LoRA adapter in PEFT's layout.

    Args:
        tensors: Its tensors by their whole names.
        trained_beside: Contents of LLaVA's non_lora_trainables.bin.
        settings: Settings of adapter_config.json beside the kind and alpha.
    """
    folder.mkdir(parents=True)
    config = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "bias": "none"}
    config["base_model_name_or_path"] = "lmsys/vicuna-7b-v1.5"
    (folder / "adapter_config.json").write_text(json.dumps(config | settings))
    save_file(tensors, folder / "adapter_model.safetensors")
    if trained_beside is not None:
        torch.save(trained_beside, folder / "non_lora_trainables.bin")
    return folder


def run_script(*arguments: object) -> str | None:
    """Run convert.py in this process; the sentence of its error, or None.

    Other exceptions pass: they would be tracebacks.
    """
    try:
        convert.main([str(one) for one in arguments])
    except (ConfigError, InputError) as error:
        return str(error)
    return None


def compare_with_reference(
    target: Path, main: Weights, tower: Weights, **reference: Any
) -> tuple[float, LlavaForConditionalGeneration]:
    """Largest difference of the logits of a converted model from the reference's, and the model.

    Args:
        main: Tensors of language model and projector by their original names.
        tower: Tensors of the tower by the names of its own folder.
        reference: Further arguments of `reference_logits`.
    """
    model, report = LlavaForConditionalGeneration.from_pretrained(
        target, output_loading_info=True, dtype=torch.float32
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    start, end = [1, 20, 30], [40, 50, 60, 70]
    image = [model.config.image_token_index] * model.config.image_seq_length
    pixels = torch.randn(1, 3, 56, 56, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        ids = torch.tensor([[*start, *image, *end]])
        found = model.eval()(input_ids=ids, pixel_values=pixels).logits[0, :, :VOCABULARY]
        wanted = reference_logits(main, tower, [*start, None, *end], pixels, HEADS, **reference)
    return float((found - wanted).abs().max()), model
