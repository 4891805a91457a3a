"""What engines take and give: settings, requests, generations, and the interface of an engine."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image
from pydantic import Field

from s4v_core.config import Config
from s4v_core.errors import EngineError

Dedupe = Literal["off", "exact", "perceptual"]
EngineName = Literal["auto", "vllm", "transformers", "openai", "fake"]


class SamplingConfig(Config):
    """How the next token is chosen. Recorded in every row."""

    max_tokens: int = Field(512, ge=1)
    """Longest caption, in tokens."""
    temperature: float = Field(0.0, ge=0.0)
    """0 takes the likeliest token each time."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Share of probability that is drawn from."""
    repetition_penalty: float = Field(1.0, gt=0.0)
    """Above 1, tokens that stand already become less likely."""
    stop_at_loops: bool = True
    """End a caption that says the same over and over, before it is as long as allowed (vLLM)."""
    seed: int = 0
    """With an image's content it fixes that image's draw, whatever its name and its batch."""

    def seed_of(self, image_sha256: str) -> int | None:
        """The seed of one image; None where nothing is drawn."""
        if self.temperature == 0:
            return None
        whole = hashlib.sha256(f"{self.seed}/{image_sha256}".encode()).digest()
        return int.from_bytes(whole[:4], "big")


CPU_SEQUENCES = 32
"""Captions at the same time on a CPU: more only lengthen each step."""


class Ladder(Config):
    """Samplings that are tried in turn where the gate turns a caption down."""

    temperatures: tuple[float, ...] = (0.2, 0.5, 0.8)
    """One attempt each, after the first; none of them: rejected at once."""
    top_p: float = Field(0.95, gt=0.0, le=1.0)
    """Of these attempts."""
    repetition_penalty: float = Field(1.05, gt=0.0)
    """Of these attempts."""

    def samplings(self, first: SamplingConfig) -> tuple[SamplingConfig, ...]:
        """`first`, and the ones after it; each draws anew, also at the same temperature."""
        return first, *(
            first.replace(
                temperature=temperature,
                top_p=self.top_p,
                repetition_penalty=max(self.repetition_penalty, first.repetition_penalty),
                seed=first.seed + number,
            )
            for number, temperature in enumerate(self.temperatures, 1)
        )


class EngineSettings(Config):
    """How engines are started. Nothing here changes a caption beyond rounding."""

    device: Literal["auto", "gpu", "cpu"] = "auto"
    """auto: cpu where the CPU build of torch is installed, else gpu."""
    dtype: str = "auto"
    """Number format of weights and activations; auto: the checkpoint's (float32 on CPU)."""
    max_model_len: int | None = Field(None, ge=1)
    """Longest prompt and caption together, in tokens; at most what the model allows."""
    max_num_seqs: int = Field(256, ge=1)
    """Captions that an engine generates at the same time (at most 32 on CPU)."""
    max_num_batched_tokens: int | None = Field(None, ge=1)
    """Tokens of one engine step; unset: vLLM's choice."""
    gpu_memory_utilization: float = Field(0.9, gt=0.0, le=1.0)
    """Share of the GPU's memory that vLLM takes; the vision encoder needs the rest."""
    enforce_eager: bool = False
    """Do without CUDA graphs: starts faster, runs slower. Always so on CPU."""
    kv_cache_gib: int | None = Field(None, ge=1)
    """Key-value cache of an engine on CPU; unset: what its sequences can fill, at most 4."""
    cpus: int = Field(2, ge=1)
    """CPUs that an engine holds."""
    units_in_flight: int = Field(3, ge=1)
    """Units that an engine works on at the same time, so that it never runs dry between two."""
    batch_size: int = Field(8, ge=1)
    """Images of a batch of engine `transformers`."""
    url: str | None = None
    """Base address of engine `openai` (.../v1); its key comes from OPENAI_API_KEY."""
    max_concurrent_requests: int = Field(32, ge=1)
    """Requests under way at the endpoint of engine `openai`."""
    silence_limit_s: float = Field(120.0, gt=0)
    """An engine that works on something and gives no sign of it for so long is killed."""
    max_engine_starts: int = Field(200, ge=1)
    """How often an engine that dies is started again before the job gives up."""
    fake_latency_s: float = Field(0.0, ge=0.0)
    """Time that engine `fake` takes for one caption."""
    fake_faults: bool = False
    """Whether pictures of certain colours break engine `fake`: for tests of what happens then."""


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """All that an actor needs to start its engine; small and picklable.

    Attributes:
        model: Folder, URI or hub id of the checkpoint.
        revision: Of a checkpoint in a store, the one that engines must find there.
    """

    name: Literal["vllm", "transformers", "openai", "fake"]
    model: str
    template: str
    settings: EngineSettings
    device: Literal["gpu", "cpu"]
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class Request:
    """One image and what is asked about it; in a conversation, what was said before.

    Attributes:
        image_sha256: With a sampling's seed it fixes the draw.
        pixels: uint8 RGB of shape (height, width, 3); None: no image.
        prompt: What is asked now.
        earlier: (question, answer) turns before it.
        system: Said first, in place of the template's own words.
        image_turn: Which question the image stands before, from 0.
        raw: `prompt` is the whole text, which no template is put around.
    """

    image_id: str
    image_sha256: str
    pixels: npt.NDArray[np.uint8] | None
    prompt: str
    earlier: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    image_turn: int = 0
    raw: bool = False

    @property
    def picture(self) -> Image.Image:
        """The pixels as Pillow has them."""
        assert self.pixels is not None, "a request about an image"
        return Image.fromarray(self.pixels)

    @property
    def is_caption(self) -> bool:
        """Whether it is one question about one image, which every engine understands."""
        return self.pixels is not None and not (self.earlier or self.system or self.raw)


class Judge(Protocol):
    """Decides whether a text is a caption (the gate, as engines know it)."""

    def judge(self, text: str, finish_reason: str | None, prompt: str) -> str | None:
        """Why it is none, or None."""
        ...


@dataclass(frozen=True, slots=True)
class Generation:
    """What came back for one request.

    Attributes:
        text: None where there is none; then `reason` says why.
        finish_reason: stop, length, or what else the engine says.
        reason: engine_refused:<class> where the engine would not take the request.
    """

    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    reason: str | None = None


Tell = Callable[[str], None]


class Engine(Protocol):
    """A captioner in this process. `generate` runs many times at once on one event loop."""

    version: str
    """Name and version, as recorded in every row."""
    last_sign: float
    """When it last did anything, on the monotonic clock, seconds."""
    slots: int
    """Requests that it can use at the same time; more would only hold pixels in memory."""

    async def generate(
        self, request: Request, sampling: SamplingConfig, tell: Tell | None = None
    ) -> Generation:
        """Caption one image. Cancelled, it gives up the request's place in the engine.

        Args:
            tell: Hears each piece of the text as it comes, where the engine knows it.

        Raises:
            EngineDiedError: The engine is gone, and all that it was working on with it.
            EngineError: It cannot answer now; that says nothing about the image.
        """
        ...

    def kill(self) -> None:
        """End the engine at once, from any thread, whatever it is doing."""
        ...

    def close(self) -> None:
        """Give back processes and memory."""
        ...


class EngineDiedError(EngineError):
    """An engine that broke while it worked: one of the images may have done it."""


def refused(error: BaseException | str) -> Generation:
    """The generation of a request that the engine would not take."""
    name = error if isinstance(error, str) else type(error).__name__
    return Generation(None, None, None, None, f"engine_refused:{name}")
