"""Loads the tokenizer of a LLaVA-1.5 checkpoint so that training and every server of the exported
model cut the same text into the same tokens."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, normalizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from s4v_core import chat

_SPACE = "\u2581"
"""The sign that SentencePiece writes for a space."""

PAD = "<pad>"


def load_tokenizer(folder: Path, config: Any = None) -> Any:
    """Load the tokenizer of a checkpoint folder.

    A SentencePiece tokenizer gives the tokens that LLaVA was trained with.

    LLaVA encodes the text before and behind an image, and behind the end of an answer, on its own
    (share4v/mm_utils.py `tokenizer_image_token`), and SentencePiece begins each such text with a
    space: the tokens behind an image are 29871 and 13, those of `USER:` behind `</s>` 3148, 1001
    and 29901. transformers 5 writes that space at the beginning of the whole text alone, unless
    the rule is part of the tokenizer's own file, where every other program reads it as well.

    Args:
        config: The config whose tokenizer class is taken; by default the folder's own.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, config=config, trust_remote_code=False)
    backend = tokenizer.backend_tokenizer
    if not _begins_with_space(backend):
        return tokenizer
    backend.normalizer = normalizers.Sequence(
        [normalizers.Prepend(_SPACE), normalizers.Replace(" ", _SPACE)]
    )
    backend.pre_tokenizer = None
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        model_max_length=tokenizer.model_max_length,
        padding_side=tokenizer.padding_side,
        clean_up_tokenization_spaces=False,
        **tokenizer.special_tokens_map,
    )


def add_image_and_pad(tokenizer: Any) -> None:
    """Add `<image>` and `<pad>` to the vocabulary: with Llama's tokens they are 32000 and 32001."""
    # One call for both would add <pad> first.
    tokenizer.add_special_tokens({"additional_special_tokens": [chat.IMAGE]})
    tokenizer.add_special_tokens({"pad_token": PAD})


def _begins_with_space(backend: Tokenizer) -> bool:
    """Whether a tokenizer puts SentencePiece's sign for a space before a text."""
    found = json.loads(backend.to_str())["pre_tokenizer"] or {}
    is_whole = found.get("type") == "Metaspace" and not found.get("split", True)
    return is_whole and found.get("prepend_scheme") in ("first", "always")
