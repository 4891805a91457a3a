"""Three fields in one pass against three passes: seconds for the same images and texts.

python -m tests.perf.fields_pass

Both ways run in this process with the heavy model, the same photographs, prompts, greedy decoding
and token limit, and no gate. The passes have vLLM as any pass of a single caption has it; the
fields have it with prefix caching on, and each image's prefix is to be computed once. Each way
reads, decodes and frames the images (the passes three times), and captions all of them; engines are
started before, and take turns. Texts of the fields must be those of the passes.

Read the share: seconds of the one pass over seconds of the three, in each round; goal: the median
at most 0.6.
"""

import asyncio
import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from s4v_core.captioning.caption_pass import make_task
from s4v_core.captioning.checks import CheckedModel, check_model
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.choice import RunningEngine, start_engine
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from tests.conftest import photo
from tests.perf.heavy import build_heavy
from tests.perf.measuring import Goal, format_spread, measure_in_turns, ratios, record
from tests.perf.vllm_pass import KV_CACHE_GIB, SEQUENCES, STEP_TOKENS, TOKENS

ROUNDS, IMAGES = 2, 24
SIZE = (640, 480)
PROMPTS = {
    "tags": "List what is visible in this image as tags.",
    "short": "Provide a brief description of the given image.",
    "long": "Provide a detailed description of the given image.",
}
"""Questions of the three fields; none needs another."""


class Way:
    """Some passes over all images with one engine."""

    def __init__(self, passes: Sequence[CheckedModel], images: Sequence[bytes]) -> None:
        self._passes, self._images = passes, images
        self._loop = asyncio.new_event_loop()
        asyncio.set_event_loop(self._loop)
        self.engine: RunningEngine = start_engine(passes[0].engine)
        self.rows: list[list[dict[str, Any]]] = []
        self._loop.run_until_complete(self._caption(passes[0], images[:SEQUENCES], "warm"))

    def measure(self) -> float:
        """Seconds of all passes."""
        asyncio.set_event_loop(self._loop)
        begun = time.monotonic()
        # Another name in every round: what the cache holds of the round before must not help.
        names = f"{len(self.rows)}-"
        self.rows = [
            self._loop.run_until_complete(self._caption(one, self._images, names))
            for one in self._passes
        ]
        return time.monotonic() - begun

    async def _caption(
        self, checked: CheckedModel, images: Sequence[bytes], name: str
    ) -> list[dict[str, Any]]:
        task = make_task(checked)
        planned = {"uri": "", "source": "perf", "payload": None}
        prepared = [
            task.prepare(planned | {"image_id": f"{number}"}, image)
            for number, image in enumerate(images)
        ]
        abouts = [
            replace(one.about, image_sha256=f"{name}{one.about.image_sha256}") for one in prepared
        ]
        answers = (
            task.answer(about, one.pictures, self.engine)
            for about, one in zip(abouts, prepared, strict=True)
        )
        return list(await asyncio.gather(*answers))


def main() -> None:
    """Measure and record."""
    images = [photo(number, SIZE) for number in range(IMAGES)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "model")
        fields = [{"name": name, "prompt": prompt} for name, prompt in PROMPTS.items()]
        (folder / "fields.json").write_text(json.dumps(fields))
        one = Way([_check(checkpoint, fields=f"{folder}/fields.json")], images)
        three = Way([_check(checkpoint, prompt=prompt) for prompt in PROMPTS.values()], images)
        try:
            seconds = measure_in_turns(ROUNDS, one.measure, three.measure)
            same = _count_same(one.rows, three.rows)
        finally:
            one.engine.close()
            three.engine.close()
    _record(*seconds, same)


def _count_same(one: list[list[dict[str, Any]]], three: list[list[dict[str, Any]]]) -> float:
    """Share of the fields' texts that the passes gave, too."""
    pairs = [
        (row[name], other["caption"])
        for name, rows in zip(PROMPTS, three, strict=True)
        for row, other in zip(one[0], rows, strict=True)
    ]
    return sum(mine == theirs for mine, theirs in pairs) / len(pairs)


def _check(checkpoint: Path, **asked: Any) -> CheckedModel:
    return check_model(
        CaptionJob(
            input=("memory",),
            output="memory",
            model=str(checkpoint),
            engine="vllm",
            template="vicuna_v1",
            gate=Gate(enabled=False),
            sampling=SamplingConfig(max_tokens=TOKENS, stop_at_loops=False),
            settings=EngineSettings(
                max_num_seqs=SEQUENCES,
                max_num_batched_tokens=STEP_TOKENS,
                kv_cache_gib=KV_CACHE_GIB,
            ),
            **asked,
        )
    )


def _record(one: list[float], three: list[float], same: float) -> None:
    shares = ratios(one, three)
    figures = {"one_s": one, "three_s": three, "share": shares, "same_texts": same}
    table = (
        f"{IMAGES} photographs of {SIZE[0]}x{SIZE[1]}, {TOKENS} tokens a text, {ROUNDS} rounds\n\n"
        "| way | seconds | of three passes |\n|---|---|---|\n"
        f"| three passes | {format_spread(three, 1)} | 1 |\n"
        f"| three fields in one pass | {format_spread(one, 1)} | {format_spread(shares)} |\n\n"
        f"{same:.0%} of the texts are equal letter by letter."
    )
    record("fields_pass", figures, table)


def goals(figures: dict[str, Any]) -> list[Goal]:
    """The share of three passes that one pass with three fields takes."""
    share = statistics.median(figures["share"])
    return [Goal("three fields in one pass, share of three passes", share, 0.6, at_least=False)]


if __name__ == "__main__":
    main()
