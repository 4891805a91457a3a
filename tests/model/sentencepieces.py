"""A small SentencePiece tokenizer with the settings of Llama's, in the files in which Vicuna has
it."""

import functools
import io
import json
import random
from pathlib import Path

import sentencepiece

_ROOT = Path(__file__).resolve().parents[2]
WORDS = ("a cat", "Un chat  noir.", "\u732b\u304c", "\u00e9t\u00e9", "\U0001f408", "USER:",
         "12 345", "ASSISTANT: yes", "\n", "  ", " tail ", "", "\tx", "Look\nat")  # fmt: skip


@functools.cache
def train_pieces() -> bytes:
    """The file `tokenizer.model` of 2,000 pieces: BPE with bytes for unknown characters, split
    digits, a space before every text and no normalisation, as Llama 2 has it."""
    lines = [line for page in sorted((_ROOT / "docs").glob("*.md")) for line in page.open()]
    lines += ["USER: Describe this image. ASSISTANT: The image shows a cat."] * 50
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=model, vocab_size=2000, model_type="bpe",
        byte_fallback=True, split_digits=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, unk_id=0, bos_id=1, eos_id=2, pad_id=-1, minloglevel=2,
    )  # fmt: skip
    return model.getvalue()


def write_tokenizer(folder: Path, **settings: object) -> Path:
    """Write `tokenizer.model` and `tokenizer_config.json` with the given further settings."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tokenizer.model").write_bytes(train_pieces())
    about = {
        "tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
        "unk_token": "<unk>", "pad_token": "<unk>", "padding_side": "right",
        "model_max_length": 2048, "add_bos_token": True, "add_eos_token": False,
    }  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(about | settings))
    return folder


def encode_apart(
    turns: list[tuple[str, str | None]], image: int | None, image_id: int, system: str
):
    """Ids of a Vicuna conversation by LLaVA's rule: SentencePiece encodes each text between two
    special tokens on its own."""
    pieces = sentencepiece.SentencePieceProcessor(model_proto=train_pieces())
    ids, text = [1], system
    for number, (question, answer) in enumerate(turns):
        text += "USER: "
        if number == image:
            ids += [*pieces.encode(text), image_id]
            text = "\n"
        text += f"{question} ASSISTANT:"
        if answer is not None:
            ids += [*pieces.encode(f"{text} {answer}"), 2]
            text = ""
    return ids + (pieces.encode(text) if text else [])


def draw_turns(chance: random.Random) -> tuple[list[tuple[str, str | None]], int | None]:
    """A conversation of one to four turns, the last one unanswered, and its image's turn."""

    def draw() -> str:
        return " ".join(chance.choices(WORDS, k=chance.randrange(5)))

    turns: list[tuple[str, str | None]] = [(draw(), draw()) for _ in range(chance.randrange(4))]
    turns.append((draw(), None))
    return turns, chance.choice([None, *range(len(turns))])
