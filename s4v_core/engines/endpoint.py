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
from collections.abc import Callable
from typing import Protocol

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
    """

    def __init__(
        self,
        engine: str,
        problem: str,
        retry_after_s: float | None = None,
        is_reached: bool = True,
        refusal: str | None = None,
    ) -> None:
        super().__init__(engine, problem)
        self.args = (engine, problem, retry_after_s, is_reached, refusal)
        self.retry_after_s, self.is_reached, self.refusal = retry_after_s, is_reached, refusal


class Client(Protocol):
    """Sends one request once."""

    name: str

    @property
    def version(self) -> str:
        """Name and version, with what the endpoint gets that is other than asked for."""
        ...

    async def send(self, request: Request, sampling: SamplingConfig) -> Generation:
        """The endpoint's answer.

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
        client: Client,
        settings: EngineSettings,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = client.name
        self.starts = 1
        self.failure: Exception | None = None
        self._client, self._clock = client, clock
        self._timeout_s, self._patience_s = settings.request_timeout_s, settings.endpoint_patience_s
        self._slots = asyncio.Semaphore(settings.max_concurrent_requests)
        self._failures_in_a_row = 0
        self._was_reached = False

    @property
    def version(self) -> str:
        """Changes when the client adapts to its endpoint; a row takes it after its answer."""
        return self._client.version

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        """The endpoint's answer, however many tries it takes.

        Raises:
            EngineError: The endpoint did not answer for `endpoint_patience_s`, or never will.
        """
        async with self._slots:
            started, pause_s, odd_answers = self._clock(), FIRST_PAUSE_S, 0
            while True:
                try:
                    answer = await self._send_once(request, sampling)
                except WeatherError as weather:
                    odd_answers += weather.refusal is not None
                    if weather.refusal and odd_answers >= MOST_ODD_ANSWERS:
                        return fail(f"engine_refused:{weather.refusal}", weather.problem)
                    wait_s = self._choose_wait(weather, pause_s)
                    self._check_patience(weather, started, wait_s)
                    await asyncio.sleep(wait_s)
                    pause_s = min(2 * pause_s, LONGEST_PAUSE_S)
                else:
                    self._failures_in_a_row, self._was_reached = 0, True
                    if answer.text and on_piece:
                        on_piece(answer.text)
                    return answer

    def close(self) -> None:
        pass  # connections end with the process

    async def _send_once(self, request: Request, sampling: SamplingConfig) -> Generation:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._client.send(request, sampling)
        except TimeoutError:
            problem = f"no answer within {self._timeout_s:g} s (--settings.request-timeout-s)"
            raise WeatherError(self.name, problem) from None

    def _choose_wait(self, weather: WeatherError, pause_s: float) -> float:
        self._was_reached |= weather.is_reached
        self._failures_in_a_row += 1
        if self._failures_in_a_row in (1, 10, 100, 1000):
            log.warning("%s; trying again", weather)
        pause_s *= random.uniform(0.5, 1.5)
        return max(pause_s, weather.retry_after_s or 0.0)

    def _check_patience(self, weather: WeatherError, started: float, wait_s: float) -> None:
        patience_s = self._patience_s
        if not self._was_reached:
            patience_s = min(FIRST_CONTACT_S, patience_s)
        if self._clock() + wait_s - started <= patience_s:
            return
        hint = "--settings.endpoint-patience-s" if self._was_reached else "--settings.url"
        problem = f"{weather.problem}; no answer for {patience_s:g} s ({hint})"
        raise EngineError(self.name, f"{problem}; what is done stays done") from weather
