"""What people caption a folder of photographs with, each from its public interface.

Each way runs in a process of its own, forked from one that has only imported what all of them
import: no start counts here, and imports take long.
"""

import io
import logging
import multiprocessing
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from PIL import Image

from s4v_core import chat, prompts
from tests.perf.vllm_pass import ENGINE, TOKENS, Report

BATCH = 4
RAY_BATCH = 16
RAY_CPUS = 8
"""With six, as a pass gives its own Ray on two cores, the stages of the example stand still."""
LIMIT_S = 900
"""For a way to caption its images, start included."""
SIDE = 336
GREEDY = {"temperature": 0, "max_tokens": TOKENS}


def in_batches(checkpoint: Path, images: Sequence[Path], beams: int) -> Report:
    """The original's loop (ShareGPT4V, tools/share-cap_batch_infer.py): four images are read and
    prepared, generated to the end of the longest caption, then the next four."""
    import torch
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    model = LlavaForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32).eval()
    processor = AutoProcessor.from_pretrained(checkpoint)
    report = Report()
    for start in range(0, len(images), BATCH):
        pictures = [Image.open(path).convert("RGB") for path in images[start : start + BATCH]]
        inputs = processor(text=[_prompt()] * len(pictures), images=pictures, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(**inputs, max_new_tokens=TOKENS, num_beams=beams, do_sample=False)
        length = inputs.input_ids.shape[1]
        processor.batch_decode(ids[:, length:], skip_special_tokens=True)
        report.done_at.extend([time.monotonic()] * len(pictures))
        report.prompt_tokens.extend([length] * len(pictures))
        end = processor.tokenizer.eos_token_id
        report.output_tokens.extend(_length(row, end) for row in ids[:, length:].tolist())
    return report


def _length(ids: list[int], end: int) -> int:
    """Tokens up to and with the end; what follows it waits for the batch's longest caption."""
    return ids.index(end) + 1 if end in ids else len(ids)


def engine_stage(checkpoint: Path, images: Sequence[Path], address: str) -> Report:
    """ray.data.llm's engine stage alone: prompt and decoded image go in, rows hold nothing else."""

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        picture = _picture(Path(row["path"]).read_bytes())
        return {
            "prompt": _prompt(),
            "multimodal_data": {"image": picture},
            "sampling_params": GREEDY,
        }

    stages = {"chat_template_stage": False, "tokenize_stage": False, "detokenize_stage": False}
    rows = [{"path": str(path)} for path in images]
    return _on_ray(checkpoint, rows, preprocess, address, stages)


def vision_example(checkpoint: Path, images: Sequence[Path], address: str) -> Report:
    """Ray's example of captioning with a vision model (llm_batch_inference_vision): bytes in rows,
    a check that they open, PIL images in chat messages, every stage on, batches of 16."""

    def is_valid(row: dict[str, Any]) -> bool:
        Image.open(io.BytesIO(row["jpg"]["bytes"]))
        return True

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        parts = [
            {"type": "text", "text": prompts.CAPTION},
            {"type": "image_pil", "image_pil": _picture(row["jpg"]["bytes"])},
        ]
        messages = [{"role": "user", "content": parts}]
        # As the processor's documentation has it: its last stage makes the text.
        return {"messages": messages, "sampling_params": GREEDY | {"detokenize": False}}

    from s4v_core.model.processor import CHAT_TEMPLATE

    # The tokenizer stage writes BOS as well; two would be another prompt than everybody's.
    template = CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    stages = {"prepare_multimodal_stage": True, "chat_template_stage": {"chat_template": template}}
    rows = [{"jpg": {"bytes": path.read_bytes()}} for path in images]
    return _on_ray(checkpoint, rows, preprocess, address, stages, is_valid)


def _on_ray(
    checkpoint: Path,
    rows: list[dict[str, Any]],
    preprocess: Callable[[dict[str, Any]], dict[str, Any]],
    address: str,
    stages: dict[str, Any],
    is_valid: Callable[[dict[str, Any]], bool] | None = None,
) -> Report:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    ray.init(address=address, log_to_driver=False, logging_level=logging.WARNING)
    config = vLLMEngineProcessorConfig(
        model_source=str(checkpoint),
        # With its statistics, which ours keeps as well: the rows' times are from there.
        engine_kwargs=dict(ENGINE),
        batch_size=RAY_BATCH,
        # As many as our pass gives its engine; without it the stage waits for a GPU.
        placement_group_config={"bundles": [{"CPU": 2}]},
        **stages,
    )
    processor = build_processor(config, preprocess=preprocess, postprocess=_ended)
    found = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // RAY_BATCH))
    if is_valid:
        found = found.filter(is_valid)
    ends = processor(found).materialize().take_all()
    ray.shutdown()
    return Report(
        [end["done_at"] for end in ends],
        [end["prompt_tokens"] for end in ends],
        [end["output_tokens"] for end in ends],
    )


def _ended(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "caption": row["generated_text"],
        "prompt_tokens": row["num_input_tokens"],
        "output_tokens": row["num_generated_tokens"],
        # When the engine was done with it: a row leaves the stage only with its whole batch.
        "done_at": row["metrics"]["last_token_ts"],
    }


def _prompt() -> str:
    return chat.VICUNA_V1.render(prompts.CAPTION)


def _picture(data: bytes) -> Image.Image:
    """Decoded, and as small as the model takes it, for it travels between processes."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SIDE / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


WAYS: dict[str, Callable[[Path, Sequence[Path], str], Report]] = {
    "beams": lambda checkpoint, images, _: in_batches(checkpoint, images, 3),
    "greedy": lambda checkpoint, images, _: in_batches(checkpoint, images, 1),
    "engine_stage": engine_stage,
    "vision_example": vision_example,
}
IMPORTS = (
    *(__name__, "torch", "transformers.models.llava.modeling_llava"),
    *("vllm.v1.engine.async_llm", "ray.data.llm"),
)


def measure(way: str, checkpoint: Path, images: Sequence[Path], log: Path, address: str) -> Report:
    """Captions all images once; what is printed meanwhile goes to the log.

    Args:
        address: Of a Ray for those who need one.
    """
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTS))
    with ProcessPoolExecutor(1, context, _print_to, (log,)) as pool:
        return pool.submit(_measured, way, checkpoint, images, address).result(LIMIT_S)


def _print_to(log: Path) -> None:
    with log.open("w") as sink:
        os.dup2(sink.fileno(), 1)
        os.dup2(sink.fileno(), 2)


def _measured(way: str, checkpoint: Path, images: Sequence[Path], address: str) -> Report:
    return WAYS[way](checkpoint, images, address)
