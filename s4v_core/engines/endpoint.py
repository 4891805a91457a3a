"""An engine behind an endpoint: its bad weather is waited out, and never blamed on a request.

An endpoint that is slow, overloaded, out of quota or down says nothing about the image in a
request. Each request has a deadline and is sent again, with growing pauses or after the time that
the endpoint names, until it is answered or patience ends. Then the unit stays undone, the job ends
with one sentence, and the same command resumes it.
"""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from s4v_core.engines.endpoint_places import Place, Places
from s4v_core.engines.metering import (
    Meter,
    SpendingLimitError,
    Usage,
    estimate_usage,
    read_usage,
)
from s4v_core.engines.requests import Generation, OnPiece, Request, fail
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import EngineError

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 1.0, 60.0
"""Pauses between two tries double from the first to the longest, and vary by half, so that many
requests do not come back at the same moment."""


MOST_ODD_ANSWERS = 3
"""Times that a request is sent to an endpoint which answers it with nothing that says why."""

FIRST_CONTACT_S = 60.0
"""Patience, in seconds, with an address that nothing has ever answered at: it may be wrong."""


class WeatherError(EngineError):
    """An endpoint that did not answer this time; it may answer the same request later.

    Attributes:
        retry_after_s: Seconds that the endpoint asked to wait; None if it did not say.
        is_reached: Whether anything answered at the endpoint's address.
        refusal: Reason with which the request is refused when the endpoint has answered it in this
            way MOST_ODD_ANSWERS times; None if it is repeated until patience ends.
        is_overload: Whether the endpoint said that it gets too much.
        is_unheard: Whether the request may have been worked on, and charged, all the same.
    """

    def __init__(
        self,
        engine: str,
        problem: str,
        retry_after_s: float | None = None,
        is_reached: bool = True,
        refusal: str | None = None,
        is_overload: bool = False,
        is_unheard: bool = False,
    ) -> None:
        super().__init__(engine, problem)
        marks = (is_reached, refusal, is_overload, is_unheard)
        self.args = (engine, problem, retry_after_s, *marks)
        self.retry_after_s = retry_after_s
        self.is_reached, self.refusal, self.is_overload, self.is_unheard = marks


MOST_CHANGES = 8
"""Times that a client may change its parameters for one request."""


class Client(Protocol):
    """Sends one request once, to one endpoint."""

    name: str

    @property
    def address(self) -> str:
        """Where requests go, and which key they go with; never the key itself."""
        ...

    @property
    def version(self) -> str:
        """Name and version, with what the endpoint gets that is other than asked for."""
        ...

    async def send(self, request: Request, sampling: SamplingConfig) -> Generation | None:
        """The endpoint's answer; None if it refused a parameter that later requests do without, so
        that the request is to be sent again at once.

        Raises:
            WeatherError: The endpoint did not answer, and may do so later.
            EngineError: It will not answer any request: a wrong key or model.
        """
        ...


class EndpointEngine:
    """Used like a supervised engine, from one event loop; needs no supervision.

    Attributes:
        starts: Always 1: there is nothing to start again.
    """

    def __init__(
        self,
        clients: Sequence[Client],
        settings: EngineSettings,
        meter: Meter | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Args:
        clients: One per endpoint; all serve the same model.
        meter: Allows each request; None allows all.
        """
        self.name = clients[0].name
        self.starts = 1
        self.failure: Exception | None = None
        self._meter, self._clock = meter, clock
        self._timeout_s, self._patience_s = settings.request_timeout_s, settings.endpoint_patience_s
        self._places = Places(clients, settings.max_concurrent_requests, clock)
        self._slots = asyncio.Semaphore(settings.max_concurrent_requests * len(clients))
        self._failures_in_a_row = 0
        self._was_reached = False

    @property
    def version(self) -> str:
        """Changes when a client adapts to its endpoint; a row takes it after its answer."""
        return "; ".join(dict.fromkeys(place.client.version for place in self._places.all))

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        """The endpoint's answer, however many tries it takes.

        Raises:
            EngineError: No endpoint answered for `endpoint_patience_s`, or none ever will.
        """
        async with self._slots:
            answer = await _Errand(self, request, sampling).run()
        if answer.text and on_piece:
            on_piece(answer.text)
        return answer

    def close(self) -> None:
        pass  # connections end with the process

    async def send_once(
        self, place: Place[Client], request: Request, sampling: SamplingConfig
    ) -> Generation | None:
        """One request to one endpoint, within its deadline."""
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await place.client.send(request, sampling)
        except TimeoutError:
            problem = f"no answer within {self._timeout_s:g} s (--settings.request-timeout-s)"
            raise WeatherError(self.name, problem, is_unheard=True) from None
        if answer is not None:
            self._failures_in_a_row, self._was_reached = 0, True
        return answer

    def choose_wait(self, weather: WeatherError, pause_s: float) -> float:
        """Seconds to wait before a request that failed is sent again."""
        self._was_reached |= weather.is_reached
        self._failures_in_a_row += 1
        if self._failures_in_a_row in (1, 10, 100, 1000):
            log.warning("%s; trying again", weather)
        pause_s *= random.uniform(0.5, 1.5)
        return max(pause_s, weather.retry_after_s or 0.0)

    def check_patience(self, weather: WeatherError, started: float, wait_s: float) -> None:
        """Raises EngineError: The wait would be longer than patience allows."""
        patience_s = self._patience_s
        if not self._was_reached:
            patience_s = min(FIRST_CONTACT_S, patience_s)
        if self._clock() + wait_s - started <= patience_s:
            return
        hint = "--settings.endpoint-patience-s" if self._was_reached else "--settings.url"
        problem = f"{weather.problem}; no answer for {patience_s:g} s ({hint})"
        raise EngineError(self.name, f"{problem}; what is done stays done") from weather


class _Errand:
    """One request on its way, over all its tries."""

    def __init__(self, engine: EndpointEngine, request: Request, sampling: SamplingConfig) -> None:
        self._engine, self._request, self._sampling = engine, request, sampling
        self._places, self._meter, self._clock = engine._places, engine._meter, engine._clock
        self._started, self._pause_s = self._clock(), FIRST_PAUSE_S
        self._odd_answers = self._changes = 0
        self._avoid: Place[Client] | None = None

    async def run(self) -> Generation:
        while True:
            waited_since = self._clock()
            place = await self._places.take(self._avoid)
            # The patience is with failures, not with a queue.
            self._started += self._clock() - waited_since
            sent_at = self._clock()
            try:
                answer = await self._try_at(place)
            except WeatherError as weather:
                if refused := await self._wait_out(weather, place, sent_at):
                    return refused
            except EngineError as error:
                if isinstance(error, SpendingLimitError) or not self._places.give_up(place, error):
                    raise
                log.warning("%s: %s; the other endpoints go on", place.client.address, error)
            else:
                if answer is not None:
                    place.note_answer()
                    return replace(answer, endpoint=place.client.address)
                self._changes += 1
                if self._changes >= MOST_CHANGES:
                    return fail("engine_refused:parameters", "one parameter after the other")

    async def _try_at(self, place: Place[Client]) -> Generation | None:
        """One try at an endpoint, once the meter allows it."""
        try:
            if self._meter is None:
                return await self._engine.send_once(place, self._request, self._sampling)
            return await self._try_metered(place, self._meter)
        finally:
            self._places.give_back(place)

    async def _try_metered(self, place: Place[Client], meter: Meter) -> Generation | None:
        waited_since = self._clock()
        most = estimate_usage(self._request, self._sampling)
        ticket = await meter.begin(place.client.address, most)
        used: Usage | None = None  # a request that is cancelled may have been charged
        try:
            while rest_s := place.rest_s(self._clock()):
                await asyncio.sleep(rest_s)
            self._started += self._clock() - waited_since
            answer = await self._engine.send_once(place, self._request, self._sampling)
            used = Usage() if answer is None or is_free(answer) else read_usage(answer)
            return answer
        except EngineError as error:
            if not (isinstance(error, WeatherError) and error.is_unheard):
                used = Usage()
            raise
        finally:
            await meter.end(ticket, used)

    async def _wait_out(
        self, weather: WeatherError, place: Place[Client], sent_at: float
    ) -> Generation | None:
        """Wait until the request may be sent again; or refuse it, if that is of no use."""
        self._odd_answers += weather.refusal is not None
        if weather.refusal and self._odd_answers >= MOST_ODD_ANSWERS:
            return fail(f"engine_refused:{weather.refusal}", weather.problem)
        wait_s = self._engine.choose_wait(weather, self._pause_s)
        is_elsewhere = self._places.has_other_ready(place)
        self._engine.check_patience(weather, self._started, 0.0 if is_elsewhere else wait_s)
        if weather.is_overload:
            place.note_overload(sent_at, self._clock(), weather.retry_after_s)
        self._avoid = place
        self._pause_s = min(2 * self._pause_s, LONGEST_PAUSE_S)
        if not is_elsewhere:
            await asyncio.sleep(wait_s)
        return None


def is_free(answer: Generation) -> bool:
    """Whether an answer is one that no endpoint charges: it refused the request as such."""
    reason = answer.reason or ""
    is_refused = answer.text is None and reason.startswith("engine_refused:")
    return is_refused and read_usage(answer) is None
