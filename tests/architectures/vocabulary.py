"""Trains the small byte-level tokenizers of the test checkpoints, and writes their files the way
transformers 4 wrote them, as nearly every published repository has them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

_SIZE = 480
"""Tokens that are learnt from `_TEXTS`; special tokens follow them."""

_TEXTS = (
    "Describe this image in detail. Write a caption for this picture. What is in the photograph?",
    "A wooden boat lies on the shore of a quiet lake while two children throw stones at the water.",
    "In the foreground, a yellow bicycle leans against a brick wall; behind it, a cat sleeps on a "
    "window sill, and the light of the evening falls from the left.",
    "The sign above the door reads OPEN 24 HOURS in white letters on a dark green background.",
    "You are a helpful assistant. user system assistant model USER: ASSISTANT: User: Assistant:",
    "Several red apples, a silver knife and an empty plate are arranged on a checkered tablecloth.",
    "Cutting knowledge date and today date: 1 January 2025, 12 February 2026, 30 December 2024.",
)


@dataclass(frozen=True)
class Words:
    """A trained tokenizer and the settings that its files name.

    Attributes:
        whole: The tokenizer itself.
        settings: What tokenizer_config.json holds besides the added tokens.
    """

    whole: Tokenizer
    settings: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, token: str) -> int:
        """Id of a token.

        Raises:
            KeyError: There is no such token.
        """
        found = self.whole.token_to_id(token)
        if found is None:
            raise KeyError(token)
        return int(found)

    @property
    def rows(self) -> int:
        """Rows of the vocabulary's matrices: a multiple of 64, because kernels like it."""
        return -(-self.whole.get_vocab_size() // 64) * 64

    def save(self, folder: Path, chat_template: Any = None) -> None:
        """Write tokenizer.json, tokenizer_config.json and special_tokens_map.json.

        Args:
            chat_template: Template, or list of named templates, that tokenizer_config.json holds.
        """
        self.whole.save(str(folder / "tokenizer.json"))
        added = {
            str(number): _describe_token(token)
            for number, token in sorted(self.whole.get_added_tokens_decoder().items())
        }
        settings = {"added_tokens_decoder": added} | self.settings
        if chat_template is not None:
            settings["chat_template"] = chat_template
        write_json(folder / "tokenizer_config.json", settings)
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        named = {name: self.settings[name] for name in names if self.settings.get(name)}
        write_json(folder / "special_tokens_map.json", named)


def train_words(
    special: Sequence[str],
    *,
    eos: str,
    pad: str,
    bos: str | None = None,
    adds_bos: bool = False,
    plain: Sequence[str] = (),
    named: Mapping[str, str] | None = None,
) -> Words:
    """Train a tokenizer of about 500 tokens.

    Args:
        special: Tokens that decoding leaves out, in the order of their ids.
        adds_bos: Whether the tokenizer itself puts `bos` in front of a text.
        plain: Added tokens that decoding keeps, such as `<think>`.
        named: Special tokens that the processor asks for by the name of an attribute.
    """
    whole = Tokenizer(models.BPE())
    whole.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    whole.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=_SIZE, initial_alphabet=alphabet, show_progress=False, min_frequency=2
    )
    whole.train_from_iterator(_TEXTS * 3, trainer)
    whole.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in special])
    whole.add_tokens([AddedToken(text, special=False, normalized=False) for text in plain])
    if adds_bos:
        assert bos, "a tokenizer that adds its BOS has one"
        known = [(bos, whole.token_to_id(bos))]
        whole.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=known
        )
    settings = {
        "bos_token": bos,
        "eos_token": eos,
        "pad_token": pad,
        "add_bos_token": adds_bos,
        "clean_up_tokenization_spaces": False,
        "model_max_length": 131072,
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    if named:
        settings |= {"extra_special_tokens": dict(named)} | dict(named)
    return Words(whole, settings)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as transformers does: indented, and ended by a newline."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def _describe_token(token: AddedToken) -> dict[str, Any]:
    return {
        "content": token.content,
        "lstrip": token.lstrip,
        "normalized": token.normalized,
        "rstrip": token.rstrip,
        "single_word": token.single_word,
        "special": token.special,
    }
