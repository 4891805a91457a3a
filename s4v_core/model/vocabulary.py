"""The tokenizer of a converted model, and its embedding matrices, which grow with it."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, LlamaConfig

from s4v_core import chat
from s4v_core.errors import InputError
from s4v_core.model.builders import round_up_rows
from s4v_core.model.tokenizer import PAD, add_image_and_pad, load_tokenizer
from s4v_core.model.weight_files import StoredTensor

_END = "</s>"
_FILES = ("tokenizer.json", "tokenizer.model")
_NEW_ROW_VARIANCE = 1e-5
"""New rows are drawn from N(mean, 1e-5 x covariance) of the old ones, as transformers does."""


def load_source_tokenizer(folder: Path, rows: int) -> Any:
    """Load a tokenizer and add `<image>` and `<pad>` to it.

    Args:
        rows: Number of rows of the model's embedding matrix.

    Raises:
        InputError: There is none, it cannot be loaded, it ends answers in another way than Vicuna,
            or it has tokens without a row.
    """
    if not any((folder / name).exists() for name in _FILES):
        raise InputError(
            str(folder), f"holds no tokenizer ({' or '.join(_FILES)}); copy it there from its model"
        )
    try:
        # By LLaVA's own config.json, transformers would choose another class with other ids.
        tokenizer = load_tokenizer(folder, LlamaConfig())
    except Exception as error:  # noqa: BLE001 - tokenizers raises bare Exceptions
        reason = str(error).strip().partition("\n")[0]
        raise InputError(
            str(folder), f"holds a tokenizer that transformers cannot load ({reason})"
        ) from None
    if tokenizer.eos_token != _END:
        raise InputError(
            str(folder),
            f"tokenizer: found the end token {tokenizer.eos_token!r}, allowed {_END!r}, which "
            "ends answers in Vicuna's conversations",
        )
    new = {chat.IMAGE, PAD, tokenizer.pad_token}
    if rowless := [t for t, i in tokenizer.get_vocab().items() if i >= rows and t not in new]:
        raise InputError(
            str(folder),
            f"tokenizer: {len(rowless)} tokens such as {min(rowless)!r} have no row among the "
            f"{rows} of the embedding matrix; use the tokenizer that the model was trained with",
        )
    add_image_and_pad(tokenizer)
    return tokenizer


def count_rows(tokenizer: Any, rows: int) -> int:
    """Rows of the written matrices: all of the source's, a row for each token, a multiple of 64."""
    return round_up_rows(max(rows, max(tokenizer.get_vocab().values()) + 1))


def refuse_other_tokens(tokenizer: Any, folder: Path) -> None:
    """Refuse a written checkpoint whose tokenizer, loaded again, gives other ids than the source's.

    Raises:
        InputError: It does so for a conversation of two turns.
    """
    again = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    pieces = chat.VICUNA_V1.build_pieces([("Hi there!", "It's ok, 2 cats.\n"), ("Why?", None)])
    text = "".join(piece.text for piece in pieces)
    wanted, found = tokenizer(text)["input_ids"], again(text)["input_ids"]
    if wanted != found:
        raise InputError(
            str(folder), f"its tokenizer gives {found} where the source's gives {wanted}"
        )


def grow_table(table: StoredTensor, rows: int) -> StoredTensor:
    """The table of shape (tokens, width) with `rows` rows, which are drawn when it is read."""
    shape = (max(rows, table.shape[0]), *table.shape[1:])
    return StoredTensor(shape, table.dtype, lambda: append_rows(table.read(), rows))


def append_rows(table: torch.Tensor, rows: int) -> torch.Tensor:
    """`table` of shape (tokens, width) with random rows appended until it has `rows` rows.

    The seed is fixed, so the same table always gets the same new rows.
    """
    more = rows - table.shape[0]
    if more <= 0:
        return table
    whole = table.float()
    mean = whole.mean(dim=0)
    # A random mixture of the centred rows has their covariance, without forming that matrix.
    chance = torch.Generator().manual_seed(0)
    weights = torch.randn(more, table.shape[0], generator=chance)
    drawn = weights @ (whole - mean) * (_NEW_ROW_VARIANCE / table.shape[0]) ** 0.5
    return torch.cat([table, (mean + drawn).to(table.dtype)])
