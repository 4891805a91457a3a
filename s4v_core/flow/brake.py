"""State that a driver and the workers of its flow share: whether to stop the intake, why a worker
failed, whether any engine has answered, and how long engines have been held.

Ray Data wraps what a task raises and keeps only its text; the error itself travels through here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import ray

from s4v_core.errors import S4VError
from s4v_core.flow.driver_actors import start_beside_driver

_ANSWER_LIMIT_S = 10.0


@dataclass
class TrialCounts:
    """First rows of a run over all its engines, while none of these has answered a request.

    Attributes:
        is_proven: An engine has answered, or refused two requests for different reasons.
        started, ended: Rows that came to an engine, and those that it is done with.
        refused: Requests that were refused, all alike.
    """

    is_proven: bool = False
    started: int = 0
    ended: int = 0
    refused: int = 0
    alike: str | None = None

    def end_rows(self, rows: int, refused: int, alike: str | None) -> None:
        """Count rows that an engine is done with, and the requests of theirs that it refused."""
        self.ended += rows
        self.refused += refused
        self.is_proven |= None not in (alike, self.alike) and alike != self.alike
        self.alike = alike or self.alike


class _BrakeActor:
    def __init__(self) -> None:
        self.pulled = False
        self.failure: S4VError | None = None
        self.trial = TrialCounts()
        self.engine_s = 0.0

    def pull(self) -> None:
        self.pulled = True

    def is_pulled(self) -> bool:
        return self.pulled

    def report(self, error: S4VError) -> None:
        self.failure = self.failure or error
        self.pulled = True

    def first_failure(self) -> S4VError | None:
        return self.failure

    def prove(self) -> None:
        self.trial.is_proven = True

    def begin_rows(self, rows: int) -> None:
        self.trial.started += rows

    def end_rows(self, rows: int, refused: int, alike: str | None) -> None:
        self.trial.end_rows(rows, refused, alike)

    def read_trial(self) -> TrialCounts:
        return self.trial

    def add_held(self, seconds: float) -> None:
        self.engine_s += seconds

    def held_s(self) -> float:
        return self.engine_s


class Brake:
    """Handle that travels to the workers. Once pulled, units in flight finish and no other
    starts."""

    def __init__(self) -> None:
        self._actor = start_beside_driver(_BrakeActor)

    def close(self) -> None:
        """End its process; Ray would keep it as long as anything remembers the run."""
        ray.kill(self._actor)

    def pull(self) -> None:
        self._actor.pull.remote()

    def is_pulled(self) -> bool:
        return bool(ray.get(self._actor.is_pulled.remote()))

    async def is_pulled_now(self) -> bool:
        """`is_pulled` for an event loop, which must not be blocked."""
        return bool(await self._actor.is_pulled.remote())

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Tell the driver which of our errors ends the task; that also stops the intake."""
        try:
            yield
        except S4VError as error:
            ray.get(self._actor.report.remote(error))
            raise

    def first_failure(self) -> S4VError | None:
        """The first error that a worker reported, if any did."""
        found: S4VError | None = ray.get(self._actor.first_failure.remote())
        return found

    def prove(self) -> None:
        """Tell every worker that an engine of this run works; does not wait."""
        self._actor.prove.remote()

    async def begin_rows(self, rows: int) -> None:
        """Count rows that came to an engine during the trial."""
        await self._actor.begin_rows.remote(rows)

    async def end_rows(self, rows: int, refused: int, alike: str | None) -> None:
        """Count rows that an engine is done with (`TrialCounts.end_rows`)."""
        await self._actor.end_rows.remote(rows, refused, alike)

    async def read_trial(self) -> TrialCounts:
        """The counts up to now."""
        found: TrialCounts = await self._actor.read_trial.remote()
        return found

    def add_held(self, seconds: float) -> None:
        """Count the time for which an engine was held; does not wait for the count to arrive."""
        self._actor.add_held.remote(seconds)

    def held_s(self) -> float:
        """Seconds for which engines were held so far, summed over all of them.

        Raises:
            RayError: The count did not answer in time.
        """
        return float(ray.get(self._actor.held_s.remote(), timeout=_ANSWER_LIMIT_S))
