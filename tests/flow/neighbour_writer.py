"""A causal language model without a chat template, built in a second: it has learnt which token
follows which one.

It is a real Llama for transformers and vLLM. Its layer adds nothing, so that the output weights see
the last token alone; they are the logarithms of how often tokens follow each other in a text.
"""

import random
from collections.abc import Sequence
from pathlib import Path

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from s4v_core.demo.scenes import BACKGROUNDS, PLACES, Shape
from s4v_core.synthesis.completions import complete
from s4v_core.synthesis.demo_world import KEYWORDS
from s4v_core.synthesis.scene_prompts import write_prompt

HEAD_DIM = 64
LEAST_LOGIT = -30.0
END = "<|endoftext|>"

DESCRIPTION = "A figure can be seen here."
QUESTION, ANSWER = "Is this picture clear?", "Yes, certainly."
SAID = (("dialogues", f" {DESCRIPTION}"), ("questions", f" {QUESTION}\nResponse: {ANSWER}"))
"""The model's answers to every prompt. Each word is always followed by the same next one."""


def build_neighbour_writer(folder: Path) -> Path:
    """Save a model that writes about scenes of one shape, in the form of completions."""
    text = _write_text(random.Random(0))
    tokenizer = _train_tokenizer(text)
    ids = tokenizer(text).input_ids
    width = -(-len(tokenizer) // HEAD_DIM) * HEAD_DIM
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=width,
            hidden_size=width,
            intermediate_size=HEAD_DIM,
            num_hidden_layers=1,
            num_attention_heads=width // HEAD_DIM,
            num_key_value_heads=width // HEAD_DIM,
            max_position_embeddings=8192,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.zero_()
        model.model.embed_tokens.weight.copy_(torch.eye(width))
        model.model.norm.weight.fill_(1.0)
        # The norm makes a one of a token sqrt(width).
        model.lm_head.weight.copy_(_find_logits(ids, width).T / width**0.5)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _write_text(chance: random.Random) -> str:
    """Every prompt of one shape, more often alone than with the texts that follow a prompt."""
    parts: list[str] = []
    for keyword in KEYWORDS:
        for place in PLACES:
            shape = Shape(*keyword.split(), place)
            prompt = write_prompt(shape, (), chance.choice(list(BACKGROUNDS)))
            parts += [f"Prompt: {prompt}"] * 3
            parts += [f"Prompt: {complete(kind, [prompt], (), ())[1]}{said}" for kind, said in SAID]
    chance.shuffle(parts)
    return "".join(f"{part}\n\n" for part in parts)


def _train_tokenizer(text: str) -> PreTrainedTokenizerFast:
    tokenizer = Tokenizer(models.BPE())
    # A label, and the end of a line where its kind matters, is a token: else its colon, or the line
    # end alone, would say what comes next.
    words = Regex(r"\n\n|\?\n|\w+:| ?\w+| ?[^\w\s]+|\s")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(words, "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1000,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    # No token to fill up with, and no chat template: base models have neither.
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token=END, model_input_names=["input_ids", "attention_mask"]
    )


def _find_logits(ids: Sequence[int], width: int) -> torch.Tensor:
    """Logits of the next token, by the one before."""
    pairs = torch.tensor([ids[:-1], ids[1:]])
    counts = torch.zeros(width, width).index_put_(tuple(pairs), torch.tensor(1.0), accumulate=True)
    shares = counts / counts.sum(1, keepdim=True).clamp(min=1)
    return torch.log(shares).clamp(min=LEAST_LOGIT)
