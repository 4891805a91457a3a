"""Answers of bare vLLM: what `vllm.LLM.chat` makes of a checkpoint, without a line of this project.

    python -m tests.architectures.reference qwen2_5_vl gemma3      # JSON on standard output

The tests call it in a process of its own, which answers for many checkpoints one after the other:
to import vLLM takes longer than to start it with a small one.
"""

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from PIL import Image

MAX_TOKENS = 24
LENGTH = 16384
"""Longest conversation in tokens: holds the largest picture of every architecture here."""

QUESTION = "Describe this image in detail."


@dataclass(frozen=True)
class Inquiry:
    """Questions about one checkpoint.

    Attributes:
        checkpoint: Its folder.
        pictures: Folder of PNG files, which are asked about one by one.
        target: JSON file for the answers. It holds "pictures", by file name, and "text", the same
            question without a picture: each has the ids of the prompt as vLLM expands them, ids
            and text of the answer, and why it ended, or else the "error"; or an "error" alone.
        question: The text of the one user message.
        options: Variables of the chat template as JSON, for example `enable_thinking`.
        given_text: Whole prompt, in place of what the chat template makes of the question.
    """

    checkpoint: str
    pictures: str
    target: str
    question: str = QUESTION
    options: str = "{}"
    given_text: str | None = None


def answer_all(inquiries: Sequence[Inquiry]) -> None:
    """Write the answers of each inquiry whose target does not exist yet."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")  # one start of Python less
    for inquiry in inquiries:
        target = Path(inquiry.target)
        if not target.exists():
            partial = target.with_suffix(".partial")
            partial.write_text(json.dumps(_answer(inquiry)))
            partial.rename(target)


def _answer(inquiry: Inquiry) -> dict[str, Any]:
    from vllm.distributed import cleanup_dist_env_and_memory

    try:
        llm = _start(inquiry.checkpoint)
    # Border to foreign code, as below.
    except Exception as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}"}
    try:
        paths = sorted(Path(inquiry.pictures).glob("*.png"))
        answers = _ask(llm, inquiry, [_open(path) for path in paths])
        found: dict[str, Any] = {path.stem: it for path, it in zip(paths, answers, strict=True)}
        return {"pictures": found, "text": _ask(llm, inquiry, [None])[0]}
    finally:
        del llm
        cleanup_dist_env_and_memory()


def _start(checkpoint: str) -> Any:
    from vllm import LLM

    config = json.loads((Path(checkpoint) / "config.json").read_text())
    length = min(LENGTH, config["text_config"]["max_position_embeddings"])
    return LLM(
        model=checkpoint,
        dtype="float32",  # as this project's engine on a CPU; some classes choose bfloat16
        max_model_len=length,
        max_num_batched_tokens=length,
        max_num_seqs=12,
        limit_mm_per_prompt={"image": 1},
        enforce_eager=True,
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        kv_cache_memory_bytes=1 << 28,
        skip_mm_profiling=True,  # a picture of 16,384 tokens takes minutes on a CPU
    )


def _ask(llm: Any, inquiry: Inquiry, images: Sequence[Image.Image | None]) -> list[dict[str, Any]]:
    """One answer per image, or for None to the question alone."""
    try:
        outputs = _generate(llm, inquiry, images)
    # Border to foreign code: what vLLM cannot answer is a finding, too.
    except Exception as error:  # noqa: BLE001
        if len(images) == 1:
            return [{"error": f"{type(error).__name__}: {error}"}]
        return [_ask(llm, inquiry, [image])[0] for image in images]
    words = llm.get_tokenizer()
    return [
        {
            "prompt_ids": list(output.prompt_token_ids),
            "answer_ids": list(output.outputs[0].token_ids),
            "text": _decode(words, output.outputs[0].token_ids),
            "finish_reason": output.outputs[0].finish_reason,
        }
        for output in outputs
    ]


def _decode(words: Any, ids: Sequence[int]) -> str:
    """The text of an answer, without a character that its last token leaves unfinished."""
    text: str = words.decode(ids, skip_special_tokens=True)
    return text.rstrip("\ufffd").strip()


def _generate(llm: Any, inquiry: Inquiry, images: Sequence[Image.Image | None]) -> list[Any]:
    from vllm import SamplingParams

    sampling = SamplingParams(temperature=0, max_tokens=MAX_TOKENS)
    if inquiry.given_text:
        prompts = [
            {"prompt": inquiry.given_text} | ({"multi_modal_data": {"image": it}} if it else {})
            for it in images
        ]
        found: list[Any] = llm.generate(prompts, sampling, use_tqdm=False)
        return found
    text = {"type": "text", "text": inquiry.question}
    contents = [
        [{"type": "image_pil", "image_pil": image}, text] if image else inquiry.question
        for image in images
    ]
    found = llm.chat(
        [[{"role": "user", "content": content}] for content in contents],
        sampling,
        use_tqdm=False,
        chat_template_kwargs=json.loads(inquiry.options) or None,
    )
    return found


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def _prepare(name: str, folder: Path) -> Inquiry:
    """Build one architecture of the catalogue and decode the twelve photographs for it."""
    from tests.architectures.answers import check_checkpoint
    from tests.architectures.catalogue import ARCHITECTURES
    from tests.architectures.photographs import list_photographs, save_pictures

    checkpoint, pictures = folder / name, folder / f"{name}.pictures"
    ARCHITECTURES[name].build(checkpoint)
    framing = check_checkpoint(str(checkpoint), "vllm").facts.framing
    save_pictures(list_photographs(), framing, pictures)
    return Inquiry(str(checkpoint), str(pictures), str(folder / f"{name}.json"))


def save_inquiries(inquiries: Sequence[Inquiry], path: Path) -> None:
    """Write the file that `--inquiries` reads."""
    path.write_text(json.dumps([asdict(inquiry) for inquiry in inquiries]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="Architectures of the catalogue.")
    parser.add_argument("--inquiries", type=Path, help="JSON file of inquiries, in place of names.")
    given = parser.parse_args()
    if given.inquiries:
        answer_all([Inquiry(**fields) for fields in json.loads(given.inquiries.read_text())])
        return
    with tempfile.TemporaryDirectory() as folder:
        inquiries = [_prepare(name, Path(folder)) for name in given.names]
        answer_all(inquiries)
        found = {
            name: json.loads(Path(inquiry.target).read_text())
            for name, inquiry in zip(given.names, inquiries, strict=True)
        }
    sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
