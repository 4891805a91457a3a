"""A tiny checkpoint in the original layout, as share4v saves one."""

import json
from pathlib import Path

import torch
from transformers import CLIPVisionConfig, LlavaForConditionalGeneration

from s4v_core.model.conversion import EMBEDDINGS
from s4v_core.model.names import disk_name_of_memory, original_name_of_disk
from tests.model.untrained import untrained_config, untrained_tokenizer


def write_original(folder: Path) -> Path:
    """Write a tiny checkpoint in the original layout: two .bin files, and the tower in a folder."""
    (folder / "vision_tower").mkdir(parents=True)
    tokenizer = untrained_tokenizer()
    config = untrained_config(tokenizer)
    vocabulary = 509  # no multiple of 64: rows must be added
    config.text_config.vocab_size = 512
    torch.manual_seed(1)
    model = LlavaForConditionalGeneration(config)
    disk = {disk_name_of_memory(name): value for name, value in model.state_dict().items()}
    main, tower = {}, {}
    for name, value in disk.items():
        place = tower if name.startswith("vision_tower.") else main
        rows = value[:vocabulary].clone() if name in EMBEDDINGS else value
        place[original_name_of_disk(name)] = rows
    main["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(16)
    names = sorted(main)
    for number, part in enumerate((names[::2], names[1::2]), 1):
        shard = {name: main[name] for name in part}
        torch.save(shard, folder / f"pytorch_model-{number:05d}-of-00002.bin")
    torch.save(tower, folder / "vision_tower" / "pytorch_model.bin")
    about = config.text_config.to_dict() | {
        "architectures": ["Share4VLlamaForCausalLM"],
        "model_type": "share4v",
        "mm_vision_tower": "Lin-Chen/tiny",
        "mm_vision_select_layer": -2,
        "image_aspect_ratio": "pad",
        "vocab_size": vocabulary,
        "torch_dtype": "float32",
    }
    (folder / "config.json").write_text(json.dumps(about))
    vision = CLIPVisionConfig(**config.vision_config.to_dict())
    vision.save_pretrained(folder / "vision_tower")
    tokenizer.save_pretrained(folder)
    return folder
