"""Ray's own ways to caption a folder of photographs, each from its public interface.

python -m tests.perf.on_ray WAY CHECKPOINT IMAGES ENDS

runs one of them on its own Ray, and writes the end time of each image's caption to ENDS.
"""

import importlib
import io
import json
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from s4v_core import chat, prompts
from tests.flow.scripts import ROOT
from tests.perf.passes import cluster
from tests.perf.stopping import Family
from tests.perf.vllm_pass import ENGINE, LIMIT_S, SEQUENCES, TOKENS, MeasuredWay, Report, Slices

BATCH = 16
CPUS = 8
"""With six, as a pass starts Ray on two cores, the stages of the example make no progress."""
POLL_S = 0.1
SIDE = 336
GREEDY = {"temperature": 0, "max_tokens": TOKENS}


class OnRay(MeasuredWay):
    """A way that starts once, and whose processes are stopped between measurements.

    Reports are filled when it is closed, because rows leave the engine's stage in whole batches.
    """

    def __init__(
        self, way: str, checkpoint: Path, images: Sequence[Path], counted: int, folder: Path
    ) -> None:
        """Start the way and stop it after its first captions.

        Args:
            counted: Images per measurement.
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
        """Wait only for the batches that were leaving the engine; the rest is not needed."""
        self._family.resume()
        self._wait_for(2 * SEQUENCES, since=time.time())
        self._family.kill()
        self._slices.fill(self._read_ends())

    def _report(self) -> Report:
        since, report = self._slices.begin()
        self._family.resume()
        self._wait_for(self._slices.counted, since)
        self._family.stop()
        return report

    def _wait_for(self, count: int, since: float) -> None:
        deadline = time.monotonic() + LIMIT_S
        while sum(done_at > since for done_at, *_ in self._read_ends()) < count:
            assert self._process.poll() is None, self._log.read_text()[-3000:]
            assert time.monotonic() < deadline, self._log.read_text()[-3000:]
            time.sleep(POLL_S)

    def _read_ends(self) -> list[tuple[float, int, int]]:
        lines = self._ends.read_text().split("\n")[:-1]  # the last line may be incomplete
        return [tuple(json.loads(line)) for line in lines]


def engine_stage(checkpoint: Path, images: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Use only ray.data.llm's engine stage; rows hold just the prompt and the decoded image."""

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        picture = _decode_small(Path(row["path"]).read_bytes())
        return {
            "prompt": _build_prompt(),
            "multimodal_data": {"image": picture},
            "sampling_params": GREEDY,
        }

    stages = {"chat_template_stage": False, "tokenize_stage": False, "detokenize_stage": False}
    rows = [{"path": str(path)} for path in images]
    return _run_processor(checkpoint, rows, preprocess, stages)


def vision_example(checkpoint: Path, images: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Follow Ray's example of captioning with a vision model (llm_batch_inference_vision).

    Rows hold bytes, a filter checks that they open, chat messages hold PIL images, every stage is
    on, and batches have 16 rows.
    """

    def is_valid(row: dict[str, Any]) -> bool:
        Image.open(io.BytesIO(row["jpg"]["bytes"]))
        return True

    def preprocess(row: dict[str, Any]) -> dict[str, Any]:
        parts = [
            {"type": "text", "text": prompts.CAPTION},
            {"type": "image_pil", "image_pil": _decode_small(row["jpg"]["bytes"])},
        ]
        messages = [{"role": "user", "content": parts}]
        # The processor's documentation says so: its last stage produces the text.
        return {"messages": messages, "sampling_params": GREEDY | {"detokenize": False}}

    from s4v_core.model.processor import CHAT_TEMPLATE

    # The tokenizer stage adds BOS too; with two the prompt would differ from the other ways'.
    template = CHAT_TEMPLATE.removeprefix("{{ bos_token }}")
    stages = {"prepare_multimodal_stage": True, "chat_template_stage": {"chat_template": template}}
    rows = [{"jpg": {"bytes": path.read_bytes()}} for path in images]
    return _run_processor(checkpoint, rows, preprocess, stages, is_valid)


def _run_processor(
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
        # Statistics stay on, as in our pass, because the end times of rows come from them.
        engine_kwargs=dict(ENGINE),
        batch_size=BATCH,
        # Our pass gives its engine as many CPUs; without this the stage waits for a GPU.
        placement_group_config={"bundles": [{"CPU": 2}]},
        **stages,
    )
    processor = build_processor(config, preprocess=preprocess, postprocess=_select_columns)
    found = ray.data.from_items(rows, override_num_blocks=max(1, len(rows) // BATCH))
    if is_valid:
        found = found.filter(is_valid)
    yield from processor(found).iter_rows()


def _select_columns(row: dict[str, Any]) -> dict[str, Any]:
    return {
        "caption": row["generated_text"],
        "prompt_tokens": row["num_input_tokens"],
        "output_tokens": row["num_generated_tokens"],
        # The time at which the engine finished; rows leave the stage only in whole batches.
        "done_at": row["metrics"]["last_token_ts"],
    }


def _build_prompt() -> str:
    return chat.VICUNA_V1.render(prompts.CAPTION)


def _decode_small(data: bytes) -> Image.Image:
    """Decode an image and shrink it to the model's size, because it travels between processes."""
    image = Image.open(io.BytesIO(data)).convert("RGB")
    scale = SIDE / min(image.size)
    width, height = (round(side * scale) for side in image.size)
    return image.resize((width, height), Image.Resampling.BICUBIC)


def alias_chat_utils() -> None:
    """Let Ray 2.60 find `vllm.entrypoints.chat_utils`, which vLLM 0.32 moved to vllm.renderers.

    The module is imported only when Ray asks for a name of it: most workers never do.
    """

    class Moved(types.ModuleType):
        def __getattr__(self, name: str) -> Any:
            return getattr(importlib.import_module("vllm.renderers.chat_utils"), name)

    place = "vllm.entrypoints.chat_utils"
    sys.modules.setdefault(place, Moved(place))


WAYS = {"engine_stage": engine_stage, "vision_example": vision_example}


def main(way: str, checkpoint: str, listing: str, ends: str) -> None:
    images = [Path(name) for name in json.loads(Path(listing).read_text())]
    since_1970 = time.time() - time.monotonic()
    with cluster(CPUS, setup=alias_chat_utils), Path(ends).open("w") as sink:
        for row in WAYS[way](Path(checkpoint), images):
            end = row["done_at"] + since_1970, row["prompt_tokens"], row["output_tokens"]
            sink.write(json.dumps(end) + "\n")
            sink.flush()


if __name__ == "__main__":
    main(*sys.argv[1:])
