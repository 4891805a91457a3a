"""A small CLIP or SigLIP of the demo world: trained on drawn scenes, or untrained."""

import math
from itertools import islice
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPProcessor,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
    SiglipProcessor,
)

from s4v_core.demo.scenes import draw_scenes
from s4v_core.demo.texts import build_corpus, write_caption

IMAGE_PX, _PATCH_PX, _LONGEST = 32, 8, 77
_WIDTH, _LAYERS, _HEADS = 96, 2, 4
_BATCH, _RATE = 64, 2e-3
_SEED = 777_000
"""Seed of the scenes to learn from; others begin elsewhere."""


def build_scorer(folder: Path, kind: str = "clip", longest: int = _LONGEST) -> None:
    """Write an untrained checkpoint; the same every time.

    Args:
        kind: clip or siglip.
        longest: Tokens that the text encoder takes.
    """
    tokenizer = _build_tokenizer()
    torch.manual_seed(0)
    model = _build_model(kind, tokenizer, longest)
    model.save_pretrained(folder)
    _build_processor(kind, tokenizer).save_pretrained(folder)


def train_scorer(folder: Path, scenes: int, steps: int) -> float:
    """Train the small CLIP on drawn scenes with their exact captions, and write it; returns the
    last loss. A step takes a third of a second of one core."""
    # Two threads wait for each other on a machine that has other work: a hundred times slower.
    torch.set_num_threads(1)
    tokenizer = _build_tokenizer()
    torch.manual_seed(0)
    model = _build_model("clip", tokenizer, _LONGEST)
    processor = _build_processor("clip", tokenizer)
    drawn = list(islice(draw_scenes(_SEED), scenes))
    images = processor.image_processor([image for _, image in drawn], return_tensors="pt")
    captions = [write_caption(scene) for scene, _ in drawn]
    texts = tokenizer(captions, padding=True, return_tensors="pt")
    optimiser = torch.optim.AdamW(model.parameters(), lr=_RATE, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, _RATE, total_steps=steps)
    draw = torch.Generator().manual_seed(0)
    loss = torch.tensor(math.inf)
    for _ in range(steps):
        rows = torch.randperm(scenes, generator=draw)[:_BATCH]
        loss = model(
            input_ids=texts["input_ids"][rows],
            attention_mask=texts["attention_mask"][rows],
            pixel_values=images["pixel_values"][rows],
            return_loss=True,
        ).loss
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    model.eval().save_pretrained(folder)
    processor.save_pretrained(folder)
    return float(loss)


def _build_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word of the demo world, between the marks that CLIP knows."""
    split = pre_tokenizers.BertPreTokenizer()
    words = {word for text in build_corpus() for word, _ in split.pre_tokenize_str(text.lower())}
    names = ["<pad>", "<unk>", "<start>", "<end>", *sorted(words)]
    vocabulary = {name: number for number, name in enumerate(names)}
    bare = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    bare.pre_tokenizer = split
    bare.normalizer = normalizers.Lowercase()
    marks = [(name, vocabulary[name]) for name in ("<start>", "<end>")]
    bare.post_processor = processors.TemplateProcessing(
        single="<start> $A <end>", special_tokens=marks
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bare,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<start>",
        eos_token="<end>",
        model_max_length=_LONGEST,
    )


def _build_model(
    kind: str, tokenizer: PreTrainedTokenizerFast, longest: int
) -> CLIPModel | SiglipModel:
    shape = {
        "hidden_size": _WIDTH,
        "intermediate_size": 2 * _WIDTH,
        "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
        "projection_dim": _WIDTH,
    }
    text = shape | {
        "vocab_size": len(tokenizer),
        "max_position_embeddings": longest,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = shape | {"image_size": IMAGE_PX, "patch_size": _PATCH_PX}
    if kind == "clip":
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=_WIDTH))
    return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))


def _build_processor(
    kind: str, tokenizer: PreTrainedTokenizerFast
) -> CLIPProcessor | SiglipProcessor:
    if kind == "clip":
        size = {"shortest_edge": IMAGE_PX}
        crop = {"height": IMAGE_PX, "width": IMAGE_PX}
        return CLIPProcessor(CLIPImageProcessor(size=size, crop_size=crop), tokenizer)
    return SiglipProcessor(
        SiglipImageProcessor(size={"height": IMAGE_PX, "width": IMAGE_PX}), tokenizer
    )
