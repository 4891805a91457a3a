"""The paper's own way to caption a folder of photographs: static batches with transformers.

Each measurement runs in a new process, forked from one that has only imported modules, because
starts are not measured and imports take long.
"""

import multiprocessing
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from PIL import Image

from s4v_core import chat, prompts
from tests.perf.vllm_pass import TOKENS, Report

BATCH = 4
LIMIT_S = 900
"""Time limit for all images of a measurement, start included."""
IMPORTS = __name__, "torch", "transformers.models.llava.modeling_llava"


def caption_in_batches(checkpoint: Path, images: Sequence[Path], beams: int) -> Report:
    """Caption images with the loop of ShareGPT4V's tools/share-cap_batch_infer.py.

    It reads and prepares four images, generates to the end of the longest caption, and then takes
    the next four.
    """
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    prompt, report = chat.VICUNA_V1.render(prompts.CAPTION), Report()
    for start in range(0, len(images), BATCH):
        pictures = [Image.open(path).convert("RGB") for path in images[start : start + BATCH]]
        inputs = processor(text=[prompt] * len(pictures), images=pictures, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=TOKENS, num_beams=beams, do_sample=False)
        length = inputs.input_ids.shape[1]
        processor.batch_decode(ids[:, length:], skip_special_tokens=True)
        report.done_at.extend([time.monotonic()] * len(pictures))
        report.prompt_tokens.extend([length] * len(pictures))
        end = processor.tokenizer.eos_token_id
        report.output_tokens.extend(_count_tokens(row, end) for row in ids[:, length:].tolist())
    return report


def _count_tokens(ids: list[int], end: int) -> int:
    """Count tokens up to the end token; later ones only pad to the batch's longest caption."""
    return ids.index(end) + 1 if end in ids else len(ids)


def measure(checkpoint: Path, images: Sequence[Path], beams: int, log: Path) -> Report:
    """Caption all images once; output goes to the log."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTS))
    with ProcessPoolExecutor(1, context, _print_to, (log,)) as pool:
        return pool.submit(caption_in_batches, checkpoint, images, beams).result(LIMIT_S)


def _print_to(log: Path) -> None:
    with log.open("w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)
