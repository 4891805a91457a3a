"""The caption pass against the bare engine: how much of vLLM's rate `caption.py` keeps.

python -m tests.perf.engine_efficiency

Both caption the same photographs with the same checkpoint, prompt, lengths, sampling and engine
settings. The bare engine is vLLM's AsyncLLM with all requests handed over at once, its pictures
decoded and framed beforehand, nothing around it. The pass reads tar shards, decodes, frames, gates
and commits. Counted are the images between the first 16 captions, as many as the engine makes at
once, and the last 16, per second; the engine's start is in neither. Read the ratio: what the pass
loses to everything that is not the engine, on cores that both share. Goal: 0.95. Below it stands
who had the cores meanwhile.
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from s4v_core import chat, prompts
from s4v_core.images.decode import decode
from s4v_core.images.policy import DecodeConfig, Decoded
from s4v_core.model.folder import read_facts
from tests.conftest import photo
from tests.perf.heavy import build_heavy
from tests.perf.measuring import CoreWatch, average, by_turns, ratios, record, shares, spread
from tests.perf.passes import PROCESSES
from tests.perf.vllm_pass import ENGINE, SEQUENCES, TOKENS, Pass, steady

IMAGES, PAIRS = 96, 5
BLOCKS = 6
"""So many that a caption takes about 0.3 s: fewer would not set the pace. Measured were four
(0.20 s) and seven (0.38 s, Intel Xeon with AVX-512)."""
SIZE = (640, 480)


class Bare:
    """The engine alone.

    Attributes:
        tokens: Of all captions of the last measurement.
        cores: Who had them between the first captions and the last, of each measurement.
    """

    def __init__(self, checkpoint: Path, images: Sequence[bytes]) -> None:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        framing = read_facts(str(checkpoint)).framing
        self._pictures = [_framed(image, framing) for image in images]
        self._prompt = chat.VICUNA_V1.render(prompts.CAPTION)
        self._loop = asyncio.new_event_loop()
        self._numbers = itertools.count()
        arguments = AsyncEngineArgs(model=str(checkpoint), disable_log_stats=True, **ENGINE)
        asyncio.set_event_loop(self._loop)
        self._engine = AsyncLLM.from_engine_args(arguments)
        self.tokens = 0
        self.cores: list[Mapping[str, float]] = []
        self._loop.run_until_complete(self._one(self._pictures[0]))

    def measure(self) -> float:
        """Images per second."""
        with CoreWatch(PROCESSES, "other", "engine's actor") as watch:
            ends = self._loop.run_until_complete(self._all())
        done_at = sorted(at for at, _ in ends)
        self.cores.append(watch.cores(done_at[SEQUENCES - 1], done_at[-SEQUENCES]))
        self.tokens = sum(tokens for _, tokens in ends)
        return steady(done_at)

    def close(self) -> None:
        self._engine.shutdown()

    async def _all(self) -> list[tuple[float, int]]:
        return await asyncio.gather(*map(self._one, self._pictures))

    async def _one(self, picture: Image.Image) -> tuple[float, int]:
        from vllm import SamplingParams
        from vllm.sampling_params import RequestOutputKind

        prompt: Any = {"prompt": self._prompt, "multi_modal_data": {"image": picture}}
        sampling = SamplingParams(
            max_tokens=TOKENS, temperature=0, output_kind=RequestOutputKind.FINAL_ONLY
        )
        stream = self._engine.generate(prompt, sampling, f"{next(self._numbers)}")
        *_, last = [output async for output in stream]
        return time.time(), len(last.outputs[0].token_ids)


def _framed(image: bytes, framing: Any) -> Image.Image:
    found = decode(image, DecodeConfig(), framing)
    assert isinstance(found, Decoded)
    return Image.frombytes("RGB", (found.pixel_width, found.pixel_height), found.pixels)


def main() -> None:
    """Runs for about nine minutes on two cores; half of them are starts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        checkpoint = build_heavy(folder / "checkpoint", BLOCKS)
        images = [photo(seed, SIZE) for seed in range(IMAGES)]
        bare = Bare(checkpoint, images)
        whole = Pass(checkpoint, images, folder)
        try:
            mine, theirs = by_turns(PAIRS, whole.measure, bare.measure)
        finally:
            bare.close()
        assert whole.tokens == bare.tokens, (whole.tokens, bare.tokens)
        _record(mine, theirs, whole, bare)


def _record(mine: list[float], theirs: list[float], whole: Pass, bare: Bare) -> None:
    bound = [line for line in whole.said.splitlines() if "bound by" in line]
    figures = {"pass_per_s": mine, "bare_per_s": theirs, "tokens": whole.tokens, "said": bound}
    figures |= {"pass_cores": whole.cores, "bare_cores": bare.cores}
    line = " | ".join(map(partial(spread, digits=3), (mine, theirs, ratios(mine, theirs))))
    table = f"| pass, images/s | bare engine, images/s | ratio |\n|---|---|---|\n| {line} |"
    cores = " | ".join(shares(average(side.cores)) for side in (whole, bare))
    table += f"\n| its cores: {cores} | |"
    record("engine_efficiency", figures, table)


if __name__ == "__main__":
    main()
