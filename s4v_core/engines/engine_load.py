"""How full an engine is and what it waits for: sums over its steps, cheap to keep and to add up."""

from dataclasses import dataclass, field, fields
from typing import Any, Protocol, Self, runtime_checkable

FULL = 0.9
"""Share of an engine's places from which on it counts as full."""

_PEAKS = ("places", "kv_peak")


@dataclass(slots=True)
class EngineLoad:
    """Sums over the steps of one engine or of several like it. Loads are added with `+`.

    A step is what an engine computes at once: one forward pass of vLLM, one batch of transformers.
    Seconds run from step to step while the engine has requests; each second belongs to one of
    `full_s`, `crowded_s`, `rationed_s` and `short_s`.

    Attributes:
        places: Most sequences that one engine generates at the same time.
        steps: Steps; `timed_steps` of them came while the engine had had requests before, so that
            their seconds are known.
        step_s: Seconds of the timed steps.
        running_s: Sequence-seconds: sequences in a step times its seconds.
        waiting_s: The same for requests that waited in the engine's queue.
        preparing_s: The same for requests whose prompts and pictures were still being prepared for
            the queue.
        kv_s: Share of the key-value cache in use, times seconds.
        kv_peak: Largest share of the key-value cache in use after any step; None if not told.
        full_s: Seconds with at least FULL of the places taken.
        crowded_s: Seconds with free places and waiting requests, but no room for one more in the
            key-value cache.
        rationed_s: Seconds with free places, waiting requests and room, so that only the tokens or
            pictures that fit into one step held the requests back.
        short_s: Seconds with free places and nothing waiting; during `unprepared_s` of them
            requests were still being prepared.
        finished: Requests that ended.
        preemptions: Times that a sequence lost its place in the key-value cache to others, so that
            its tokens had to be computed again.
        prompt_tokens: Prompt tokens that were computed, those from caches not included.
        output_tokens: Tokens that were generated.
        prefix_queries: Prompt tokens that were looked up in the prefix cache; `prefix_hits` of them
            were found.
        image_queries: Pictures that were looked up in the cache of processed pictures;
            `image_hits` of them were found.
        drafted: Tokens that speculative decoding proposed; `accepted` of them were right.
        moments: Sums over the timed steps, from which `estimate_prefill_share` is made: prompt
            tokens, output tokens, their squares, their product, and each of them times seconds.
    """

    places: int = 0
    steps: int = 0
    timed_steps: int = 0
    step_s: float = 0.0
    running_s: float = 0.0
    waiting_s: float = 0.0
    preparing_s: float = 0.0
    kv_s: float = 0.0
    kv_peak: float | None = None
    full_s: float = 0.0
    crowded_s: float = 0.0
    rationed_s: float = 0.0
    short_s: float = 0.0
    unprepared_s: float = 0.0
    finished: int = 0
    preemptions: int = 0
    prompt_tokens: int = 0
    output_tokens: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    image_queries: int = 0
    image_hits: int = 0
    drafted: int = 0
    accepted: int = 0
    moments: list[float] = field(default_factory=lambda: [0.0] * 7)

    def __add__(self, other: Self) -> Self:
        total = type(self)()
        for name in (one.name for one in fields(self)):
            mine, theirs = getattr(self, name), getattr(other, name)
            if name in _PEAKS:
                known = [value for value in (mine, theirs) if value is not None]
                value: Any = max(known, default=None)
            elif name == "moments":
                value = [a + b for a, b in zip(mine, theirs, strict=True)]
            else:
                value = mine + theirs
            setattr(total, name, value)
        return total


def add_loads(one: EngineLoad | None, other: EngineLoad | None) -> EngineLoad | None:
    """The sum of two loads, either of which may be unknown."""
    if one is None or other is None:
        return one or other
    return one + other


@runtime_checkable
class MeasuredEngine(Protocol):
    """An engine that tells its load; the others simply lack the method."""

    def take_load(self) -> EngineLoad | None:
        """The load since the last call."""
        ...


def take_load(engine: object) -> EngineLoad | None:
    """The load of an engine since the last call; None if its kind does not tell."""
    return engine.take_load() if isinstance(engine, MeasuredEngine) else None
