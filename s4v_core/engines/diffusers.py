"""Text-to-image pipelines of diffusers: pictures in batches of one constant size.

A picture depends on its prompt, its number and the run's settings. Each has a generator of its own,
and a batch that is not full is filled up: the last bits of a matrix product depend on how many rows
it has, but not on what stands in the other rows.
"""

import asyncio
import hashlib
import importlib
import inspect
import io
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from s4v_core.engines.drawing import PaintConfig
from s4v_core.engines.engine_load import EngineLoad
from s4v_core.engines.load_meter import LoadMeter
from s4v_core.engines.requests import Drawing, Generation, OnPiece, Request, refuse
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSpec
from s4v_core.errors import ConfigError, EngineError
from s4v_core.pipelines import find_variant, read_parts

_DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

_OWN_PACKAGES = ("s4v_core.demo.patch_codec",)
"""Modules of ours whose classes may be parts of a pipeline."""

_KNOWN_PACKAGES = ("diffusers", "transformers", *_OWN_PACKAGES)
"""Packages whose classes may be parts of a pipeline, beside those inside diffusers."""


class DiffusersEngine:
    """Draws one batch after the other, in a thread of this process."""

    def __init__(self, spec: EngineSpec) -> None:
        assert spec.painting, "a painter has settings"
        self._painting = spec.painting
        self.version = f"diffusers {diffusers.__version__}"
        self._batch_size = spec.settings.batch_size
        self.slots = 2 * self._batch_size  # one batch is drawn while the next one waits
        self._waiting: deque[_Waiting] = deque()
        self._batches: asyncio.Task[None] | None = None
        self._load = LoadMeter(self._batch_size)
        self.last_sign = time.monotonic()
        _limit_threads(spec)
        folder = Path(spec.model)
        refuse_foreign_parts(folder)
        self._pipeline = _load_pipeline(folder, spec)
        known = inspect.signature(self._pipeline.__call__).parameters
        name = type(self._pipeline).__name__
        self._model = f"{name} {spec.revision}"
        self._arguments = _fit_arguments(spec.painting, known, name)
        if negative := self._arguments.get("negative_prompt"):
            self._arguments["negative_prompt"] = [negative] * self._batch_size
        self.steps = _effective(spec.painting.steps, known, "num_inference_steps")
        self.guidance = _effective(spec.painting.guidance, known, "guidance_scale")
        if "callback_on_step_end" in known:
            self._arguments["callback_on_step_end"] = self._note_step

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        """Draw one picture. The request's content fixes its seed, with the run's base seed."""
        if request.images or request.earlier or request.system or request.answer_schema:
            return refuse("draws_from_one_prompt")
        if not request.prompt.strip():
            return refuse("empty_prompt")
        answer = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(request, self._seed_of(request), answer))
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._run_batches())
        found: Generation = await answer
        return found

    def _seed_of(self, request: Request) -> int:
        whole = f"{self._painting.seed}/{request.content}"
        return int.from_bytes(hashlib.sha256(whole.encode()).digest()[:6], "big")

    async def _run_batches(self) -> None:
        await asyncio.sleep(0)  # let requests made in the same tick share a batch
        while self._waiting:
            size = min(len(self._waiting), self._batch_size)
            batch = [self._waiting.popleft() for _ in range(size)]
            try:
                found = await asyncio.to_thread(self._draw, batch)
            # Border to foreign code: whatever it is, the callers must hear of it.
            except Exception as error:  # noqa: BLE001
                failure = EngineError("diffusers", f"{type(error).__name__}: {error}")
                for waiting in batch:
                    if not waiting.answer.done():
                        waiting.answer.set_exception(failure)
                continue
            self.last_sign = time.monotonic()
            self._load.add_step(len(batch), len(self._waiting), finished=len(batch))
            for waiting, answer in zip(batch, found, strict=True):
                if not waiting.answer.done():
                    waiting.answer.set_result(answer)

    def _draw(self, batch: Sequence["_Waiting"]) -> list[Generation]:
        filled = [*batch, *[batch[-1]] * (self._batch_size - len(batch))]
        try:
            output = self._pipeline(
                prompt=[one.request.prompt for one in filled],
                # On the CPU, whose draws are the same for every device.
                generator=[torch.Generator("cpu").manual_seed(one.seed) for one in filled],
                **self._arguments,
            )
        except (TypeError, ValueError) as error:  # what tokenizer or pipeline cannot take
            if len(batch) == 1:
                return [refuse(error)]
            return [self._draw([one])[0] for one in batch]
        unsafe = getattr(output, "nsfw_content_detected", None) or [False] * len(filled)
        return [
            # A refused picture is painted black; the reason says more.
            refuse("content_filter") if is_unsafe else self._answer(one, picture)
            for one, picture, is_unsafe in zip(batch, output.images, unsafe, strict=False)
        ]

    def _answer(self, waiting: "_Waiting", picture: Image.Image) -> Generation:
        about = {
            "prompt": waiting.request.prompt,
            "seed": str(waiting.seed),
            "model": self._model,
            "steps": str(self.steps),
            "guidance": str(self.guidance),
        }
        notes = PngInfo()
        for name, value in about.items():
            notes.add_itxt(name, value)
        sink = io.BytesIO()
        picture.save(sink, "PNG", pnginfo=notes)
        steps = None if self.steps is None else int(self.steps)
        drawing = Drawing(sink.getvalue(), waiting.seed, steps, self.guidance)
        return Generation(None, "stop", None, None, drawing=drawing)

    def _note_step(self, pipeline: Any, step: int, at: Any, values: dict[str, Any]) -> Any:
        """Called by the pipeline: a large picture takes longer than the watchdog waits."""
        self.last_sign = time.monotonic()
        return values

    def take_load(self) -> EngineLoad:
        """The load since the last call (`MeasuredEngine`)."""
        return self._load.take()

    def kill(self) -> None:
        os._exit(1)  # it computes in this very process; Ray starts another

    def close(self) -> None:
        del self._pipeline


@dataclass(frozen=True, slots=True)
class _Waiting:
    request: Request
    seed: int
    answer: "asyncio.Future[Generation]"


def refuse_foreign_parts(folder: Path) -> None:
    """Check that every part of a pipeline comes from a package that is known: its index could name
    any module that is installed.

    Raises:
        ConfigError: One does not.
    """
    for part, (package, name) in read_parts(folder).items():
        is_inside = hasattr(diffusers.pipelines, package) and "." not in package
        if package not in _KNOWN_PACKAGES and not is_inside:
            raise ConfigError(
                f"painter: its part {part} is {package}.{name}, which is no part of diffusers or "
                "transformers; code of a model is never run"
            )


def _load_pipeline(folder: Path, spec: EngineSpec) -> Any:
    # diffusers takes parts from modules that were imported, and imports none by itself.
    for package in _OWN_PACKAGES:
        importlib.import_module(package)
    diffusers.utils.logging.disable_progress_bar()
    diffusers.utils.logging.set_verbosity_error()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        folder,
        torch_dtype=_choose_dtype(spec),
        variant=find_variant(folder),
        use_safetensors=True,
        local_files_only=True,
    )
    pipeline.set_progress_bar_config(disable=True)
    if spec.device == "gpu":
        torch.backends.cudnn.benchmark = False  # it would choose kernels by their speed of the day
        torch.backends.cudnn.deterministic = True
    return pipeline.to("cuda" if spec.device == "gpu" else "cpu")


def _choose_dtype(spec: EngineSpec) -> torch.dtype:
    name = spec.settings.dtype
    if name == "auto":
        name = "bfloat16" if spec.device == "gpu" else "float32"
    if name not in _DTYPES:
        raise ConfigError(f"settings.dtype: found {name!r}, allowed auto, {', '.join(_DTYPES)}")
    return _DTYPES[name]


def _limit_threads(spec: EngineSpec) -> None:
    """Compute with the CPUs that are reserved, and no more: threads that wait for a busy CPU hold
    up all others, and a batch takes ten times as long."""
    if spec.device == "cpu":
        torch.set_num_threads(spec.settings.cpus)


def _fit_arguments(painting: PaintConfig, known: Any, pipeline: str) -> dict[str, Any]:
    """The settings as arguments of a pipeline.

    Raises:
        ConfigError: It does not draw from prompts, or does not know one of them.
    """
    arguments = painting.list_arguments()
    foreign = sorted({"prompt", "generator", *arguments} - set(known))
    if foreign:
        raise ConfigError(f"painter: {pipeline} takes no {foreign[0]}")
    # Flux takes a negative prompt and then leaves it out, unless a further scale is above 1.
    if "negative_prompt" in arguments and (_effective(None, known, "true_cfg_scale") or 2) <= 1:
        raise ConfigError(f"painter: {pipeline} makes no use of a negative prompt")
    return arguments | {"output_type": "pil"}


def _effective(chosen: float | None, known: Any, name: str) -> float | None:
    """A setting, or the pipeline's default for it."""
    if chosen is not None or name not in known:
        return chosen
    default = known[name].default
    return default if isinstance(default, int | float) else None
