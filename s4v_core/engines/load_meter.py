"""Measures an engine's load step by step, for a few additions a step."""

import time
from collections.abc import Callable
from typing import Any

from s4v_core.engines.engine_load import FULL, EngineLoad


class LoadMeter:
    """Sums the steps of one engine until somebody takes the sums.

    Args:
        places: Most sequences that the engine generates at the same time.
    """

    def __init__(self, places: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._places, self._clock = places, clock
        self._load = EngineLoad(places=places)
        self._last: float | None = None  # end of the last step, if requests were left behind it
        self._last_kv = 0.0

    def take(self) -> EngineLoad:
        """The load since the last call."""
        taken, self._load = self._load, EngineLoad(places=self._places)
        return taken

    def add_step(
        self,
        running: int,
        waiting: int,
        finished: int,
        preparing: int = 0,
        kv: float | None = None,
        prompt_tokens: int = 0,
        output_tokens: int = 0,
    ) -> None:
        """Count a step that has just ended.

        Args:
            running: Sequences in the step, with the `finished` ones that left after it.
            waiting: Requests in the engine's queue after it.
            preparing: Requests that are not in the queue yet.
            kv: Share of the key-value cache in use after it.
        """
        load, now = self._load, self._clock()
        last, is_left = self._last, running - finished + waiting + preparing > 0
        self._last = now if is_left else None
        # The step's own use of the cache: what ended with it has given its part back by now.
        peak, self._last_kv = max(kv or 0.0, self._last_kv), kv or 0.0
        load.steps += 1
        load.finished += finished
        load.prompt_tokens += prompt_tokens
        load.output_tokens += output_tokens
        if kv is not None:
            load.kv_peak = max(load.kv_peak or 0.0, kv)
        if last is None:
            return  # it began at an unknown time after the engine had had nothing to do
        seconds = now - last
        load.timed_steps += 1
        load.step_s += seconds
        load.running_s += running * seconds
        load.waiting_s += waiting * seconds
        load.preparing_s += preparing * seconds
        load.kv_s += peak * seconds
        self._add_state(seconds, running, waiting, preparing, peak)
        _add_moments(load.moments, seconds, prompt_tokens, output_tokens)

    def add_lookups(self, prefixes: Any, pictures: Any, drafts: Any) -> None:
        """Count what caches and speculative decoding found.

        Args:
            prefixes, pictures: Have `queries` and `hits` (vLLM's BaseCacheStats); None: no cache.
            drafts: Has `num_draft_tokens` and `num_accepted_tokens` (vLLM's SpecDecodingStats).
        """
        load = self._load
        if prefixes:
            load.prefix_queries += prefixes.queries
            load.prefix_hits += prefixes.hits
        if pictures:
            load.image_queries += pictures.queries
            load.image_hits += pictures.hits
        if drafts:
            load.drafted += drafts.num_draft_tokens
            load.accepted += drafts.num_accepted_tokens

    def add_preemptions(self, count: int) -> None:
        self._load.preemptions += count

    def _add_state(
        self, seconds: float, running: int, waiting: int, preparing: int, kv: float
    ) -> None:
        load = self._load
        if running >= FULL * self._places:
            load.full_s += seconds
        elif not waiting:
            load.short_s += seconds
            load.unprepared_s += seconds if preparing else 0.0
        elif running and kv * (running + 1) >= running:
            load.crowded_s += seconds  # one more of the same size would not fit
        else:
            load.rationed_s += seconds


def _add_moments(moments: list[float], seconds: float, prompts: int, outputs: int) -> None:
    """Add a step to EngineLoad.moments."""
    moments[0] += prompts
    moments[1] += outputs
    moments[2] += prompts * prompts
    moments[3] += outputs * outputs
    moments[4] += prompts * outputs
    moments[5] += prompts * seconds
    moments[6] += outputs * seconds


def record_step(meter: LoadMeter, scheduler: Any, iteration: Any, pictures: Any, held: int) -> None:
    """Count one step of vLLM from the arguments of StatLoggerBase.record.

    Args:
        scheduler: Its SchedulerStats; None for answers that are no step's.
        iteration: Its IterationStats; None if the step gave out nothing.
        pictures: Its MultiModalCacheStats; None without a cache.
        held: Requests that were given to vLLM and have no answer yet.
    """
    if scheduler is None:
        return
    left = scheduler.num_running_reqs
    waiting = scheduler.num_waiting_reqs + scheduler.num_skipped_waiting_reqs
    finished = len(iteration.finished_requests) if iteration else 0
    meter.add_step(
        running=left + finished,
        waiting=waiting,
        finished=finished,
        preparing=max(held - left - waiting - finished, 0),
        kv=scheduler.kv_cache_usage,
        prompt_tokens=iteration.prompt_token_stats.computed if iteration else 0,
        output_tokens=iteration.num_generation_tokens if iteration else 0,
    )
    if iteration and iteration.num_preempted_reqs:
        meter.add_preemptions(iteration.num_preempted_reqs)
    meter.add_lookups(scheduler.prefix_cache_stats, pictures, scheduler.spec_decoding_stats)
