"""Answers of bare vLLM: what `vllm.LLM.chat` makes of a checkpoint, without a line of this project.

    python -m tests.architectures.reference qwen2_5_vl gemma3      # JSON on standard output

The tests call it in a process of its own, because vLLM keeps what it took until its process ends.
"""

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

MAX_TOKENS = 24
LENGTH = 16384
"""Longest conversation in tokens: holds the largest picture of every architecture here."""

QUESTION = "Describe this image in detail."


def answer(
    checkpoint: Path, pictures: Path, question: str, options: dict[str, Any]
) -> dict[str, Any]:
    """Ask bare vLLM about each picture, and the same question without a picture.

    Args:
        pictures: Folder of PNG files.
        options: Variables of the chat template, for example `enable_thinking`.

    Returns:
        "pictures", by file name, and "text": each holds the ids of the prompt as vLLM expands
        them, the ids and text of the answer, and why it ended; or vLLM's error.
    """
    llm = _start(checkpoint)
    found = {
        path.stem: _ask(llm, [{"type": "image_pil", "image_pil": _open(path)}], question, options)
        for path in sorted(pictures.glob("*.png"))
    }
    return {"pictures": found, "text": _ask(llm, [], question, options)}


def _start(checkpoint: Path) -> Any:
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    from vllm import LLM

    return LLM(
        model=str(checkpoint),
        max_model_len=LENGTH,
        max_num_batched_tokens=LENGTH,
        max_num_seqs=4,
        limit_mm_per_prompt={"image": 1},
        enforce_eager=True,
        enable_prefix_caching=False,
        mm_processor_cache_gb=0,
        kv_cache_memory_bytes=1 << 29,
        skip_mm_profiling=True,  # a picture of 16,384 tokens takes minutes on a CPU
    )


def _ask(
    llm: Any, images: list[dict[str, Any]], question: str, options: dict[str, Any]
) -> dict[str, Any]:
    from vllm import SamplingParams

    content = [*images, {"type": "text", "text": question}]
    try:
        [output] = llm.chat(
            [{"role": "user", "content": content if images else question}],
            SamplingParams(temperature=0, max_tokens=MAX_TOKENS),
            use_tqdm=False,
            chat_template_kwargs=options or None,
        )
    # Border to foreign code: what vLLM cannot answer is a finding, too.
    except Exception as error:  # noqa: BLE001
        return {"error": f"{type(error).__name__}: {error}"}
    last = output.outputs[0]
    return {
        "prompt_ids": list(output.prompt_token_ids),
        "answer_ids": list(last.token_ids),
        "text": last.text,
        "finish_reason": last.finish_reason,
    }


def _open(path: Path) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("RGB")


def build_and_answer(name: str, folder: Path) -> dict[str, Any]:
    """Build one architecture of the catalogue, and ask bare vLLM about the twelve photographs."""
    from s4v_core.model.checkpoint_facts import read_facts
    from tests.architectures.catalogue import ARCHITECTURES
    from tests.architectures.photographs import list_photographs, save_pictures

    ARCHITECTURES[name].build(folder / name)
    framing = read_facts(str(folder / name)).framing
    save_pictures(list_photographs(), framing, folder / f"{name}.pictures")
    return answer(folder / name, folder / f"{name}.pictures", QUESTION, {})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="Architectures of the catalogue.")
    parser.add_argument(
        "--checkpoint", type=Path, help="Folder of a checkpoint, in place of names."
    )
    parser.add_argument("--pictures", type=Path, help="Folder of PNG files.")
    parser.add_argument("--question", default=QUESTION, help="Question to ask.")
    parser.add_argument("--options", default="{}", help="Variables of the chat template, as JSON.")
    parser.add_argument("--target", type=Path, help="File for the answers.")
    given = parser.parse_args()
    if given.checkpoint:
        options = json.loads(given.options)
        found = answer(given.checkpoint, given.pictures, given.question, options)
    else:
        with tempfile.TemporaryDirectory() as folder:
            found = {name: build_and_answer(name, Path(folder)) for name in given.names}
    if given.target:
        given.target.write_text(json.dumps(found))
    else:
        sys.stdout.write(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
