"""Requests, generations, and the interface of an engine."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
from PIL import Image

from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import EngineError

_LONGEST_DETAIL = 500
"""Characters of an engine's own words that a row keeps."""

Picture = npt.NDArray[np.uint8]
"""An image as engines take it: RGB, shape (height, width, 3)."""


@dataclass(frozen=True, slots=True)
class Request:
    """A question, the images it is about, and the conversation before it.

    Attributes:
        key: Identifies the row that the request belongs to, in messages.
        content: Identifies what the request is about: the image's sha256, or else the key. Combined
            with the sampling's seed it fixes the draw.
        images: Any number of them; all stand in front of their turn's question.
        prompt: The question to answer.
        earlier: (question, answer) turns before it.
        system: System text, in place of the template's own.
        image_turns: For each image, the turn whose question it stands in front of, counted from 0;
            empty: all stand in front of the first question.
        is_raw: The prompt is the whole text; no template is put around it.
        prefill: Start of the answer, which the model continues; the generation's text begins with
            it.
        answer_schema: JSON schema, as JSON text, that the answer must follow.
        image_names: For each image, a name that changes with its pixels, under which an engine may
            keep what it made of the image; empty: made from `content`.
        adapter: Name of one of the engine's further LoRA adapters; empty: the model itself.
    """

    key: str
    content: str
    images: tuple[Picture, ...]
    prompt: str
    earlier: tuple[tuple[str, str], ...] = ()
    system: str | None = None
    image_turns: tuple[int, ...] = ()
    is_raw: bool = False
    prefill: str = ""
    answer_schema: str | None = None
    image_names: tuple[str, ...] = ()
    adapter: str = ""

    @property
    def pictures(self) -> list[Image.Image]:
        """The images as Pillow has them."""
        return [Image.fromarray(image) for image in self.images]

    @property
    def turns_of_images(self) -> tuple[int, ...]:
        """One turn per image, whether or not the request names them."""
        return self.image_turns or (0,) * len(self.images)

    @property
    def names_of_images(self) -> tuple[str, ...]:
        """One name per image, whether or not the request gives them."""
        content = self.content or self.key
        return self.image_names or tuple(f"{content}-{n}" for n in range(len(self.images)))

    @property
    def is_single_question(self) -> bool:
        """Whether it is one question about one image and nothing else, as in captioning."""
        others = self.earlier or self.system or self.is_raw or self.prefill
        return len(self.images) == 1 and not others


@dataclass(frozen=True, slots=True)
class Generation:
    """The result of one request.

    Attributes:
        text: None if there is none; `reason` then says why.
        finish_reason: stop, length, or whatever else the engine reports.
        reason: engine_refused:<why> if the engine would not take the request.
        reason_detail: What the engine or server said about it.
        thinking_tokens: Tokens that the model thought before it answered; they are part of
            `output_tokens` and not of the text. None if it did not think.
        model: Id of the model as its endpoint names it; None if it names none.
    """

    text: str | None
    finish_reason: str | None
    prompt_tokens: int | None
    output_tokens: int | None
    reason: str | None = None
    reason_detail: str | None = None
    thinking_tokens: int | None = None
    model: str | None = None


OnPiece = Callable[[str], None]
"""Called with each piece of an answer as it is generated."""


class Generator(Protocol):
    """The part that an engine and a supervised engine have in common."""

    @property
    def version(self) -> str:
        """Name and version, as recorded in every row."""
        ...

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        """The answer to one request, or the reason why there is none."""
        ...


class Engine(Protocol):
    """A model in this process or behind an endpoint. `generate` runs many times at once on one
    event loop."""

    version: str
    """Name and version, as recorded in every row."""
    last_sign: float
    """When the engine last made progress (monotonic clock, seconds)."""
    slots: int
    """Requests that the engine can use at the same time; more would only hold pixels in memory."""

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        """Answer one request. When cancelled, free the request's place in the engine.

        Args:
            on_piece: Called with each piece of the text, if the engine can stream.

        Raises:
            EngineDiedError: The engine is gone, with everything that it was working on.
            EngineError: It cannot answer now, which says nothing about the request.
        """
        ...

    def kill(self) -> None:
        """End the engine at once, from any thread, whatever it is doing."""
        ...

    def close(self) -> None:
        """Give back processes and memory."""
        ...


class EngineDiedError(EngineError):
    """An engine that broke while it worked: one of its requests may be the cause."""


def refuse(why: BaseException | str) -> Generation:
    """The generation of a request that the engine would not take."""
    if isinstance(why, str):
        return fail(f"engine_refused:{why}")
    # vLLM wraps what it did not expect in an error without words.
    detail = " ".join(str(why if str(why) else why.__cause__ or "").split())[:_LONGEST_DETAIL]
    return fail(f"engine_refused:{type(why).__name__}", detail or None)


def fail(reason: str, detail: str | None = None) -> Generation:
    """A generation without a text."""
    return Generation(None, None, None, None, reason, detail)
