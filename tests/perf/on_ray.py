"""What Ray has for captioning a folder of photographs, each way from its public interface.

python -m tests.perf.on_ray WAY CHECKPOINT IMAGES ENDS

runs one of them on a Ray of its own, and writes to ENDS when each image's caption was done.
"""

import io
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from s4v_core import chat, prompts
from tests.flow.scripts import ROOT
from tests.perf.passes import cluster
from tests.perf.stopping import Family
from tests.perf.vllm_pass import ENGINE, LIMIT_S, SEQUENCES, TOKENS, Report, Slices, Watched

BATCH = 16
CPUS = 8
"""With six, as a pass gives its own Ray on two cores, the stages of the example stand still."""
POLL_S = 0.1
SIDE = 336
GREEDY = {"temperature": 0, "max_tokens": TOKENS}


class OnRay(Watched):
    """A way that starts once; between measurements all its processes are stopped.

    Reports are filled when it is closed: a row leaves the engine's stage only with its whole batch.
    """

    def __init__(
        self, way: str, checkpoint: Path, images: Sequence[Path], counted: int, folder: Path
    ) -> None:
        """Args:
        counted: Images of a measurement.
        """
        super().__init__("rest of Ray")
        self._ends, self._log = folder / f"{way}.jsonl", folder / f"{way}.log"
        listing = folder / f"{way}.json"
        listing.write_text(json.dumps(list(map(str, images))))
        self._ends.touch()
        places = map(str, (checkpoint, listing, self._ends))
        command = [sys.executable, "-m", __name__, way, *places]
        with self._log.open("w") as sink:
            self._process = subprocess.Popen(command, cwd=ROOT, stdout=sink, stderr=sink)
        self._family, self._slices = Family(self._process), Slices(counted)
        self._wait_for(SEQUENCES, since=0)
        self._family.stop()

    def close(self) -> None:
        """Nobody needs the rest of its captions, but those of batches that had begun to leave."""
        self._family.go_on()
        self._wait_for(2 * SEQUENCES, since=time.time())
        self._family.kill()
        self._slices.fill(self._found())

    def _report(self) -> Report:
        since, report = self._slices.begin()
        self._family.go_on()
        self._wait_for(self._slices.counted, since)
        self._family.stop()
        return report

    def _wait_for(self, count: int, since: float) -> None:
        deadline = time.monotonic() + LIMIT_S
        while sum(done_at > since for done_at, *_ in self._found()) < count:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < deadline, self._log.read_text()[-3000:]
            time.sleep(POLL_S)

    def _found(self) -> list[tuple[float, int, int]]:
        lines = self._ends.read_text().split("\n")[:-1]  # the last may not be whole
        return [tuple(json.loads(line)) for line in lines]


def engine_stage(checkpoint: Path, images: Sequence[Path]) -> Iterator[dict[str, Any]]:
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
    return _captioned(checkpoint, rows, preprocess, stages)


def vision_example(checkpoint: Path, images: Sequence[Path]) -> Iterator[dict[str, Any]]:
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
    return _captioned(checkpoint, rows, preprocess, stages, is_valid)


def _captioned(
    checkpoint: Path,
    rows: list[dict[str, Any]],
    preprocess: Callable[[dict[str, Any]], dict[str, Any]],
    stages: dict[str, Any],
    is_valid: Callable[[dict[str, Any]], bool] | None = None,
) -> Iterator[dict[str, Any]]:
    import ray
    from ray.data.llm import build_processor, vLLMEngineProcessorConfig

    config = vLLMEngineProcessorConfig(
        model_source=str(checkpoint),
        # With its statistics, which ours keeps as well: the rows' times are from there.
        engine_kwargs=dict(ENGINE),
        batch_size=BATCH,
        # As many as our pass gives its engine; without it the stage waits for a GPU.
        placement_group_config={"bundles": [{"CPU": 2}]},
        **stages,
    )
    processor = build_processor(config, preprocess=preprocess, postprocess=_ended)
    found = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // BATCH))
    if is_valid:
        found = found.filter(is_valid)
    yield from processor(found).iter_rows()


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


WAYS = {"engine_stage": engine_stage, "vision_example": vision_example}


def main(way: str, checkpoint: str, listing: str, ends: str) -> None:
    images = [Path(name) for name in json.loads(Path(listing).read_text())]
    since_1970 = time.time() - time.monotonic()
    with cluster(CPUS), Path(ends).open("w") as sink:
        for row in WAYS[way](Path(checkpoint), images):
            end = row["done_at"] + since_1970, row["prompt_tokens"], row["output_tokens"]
            sink.write(json.dumps(end) + "\n")
            sink.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
