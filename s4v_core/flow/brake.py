"""State that a driver and the workers of its flow share: whether to stop the intake, why a worker
failed, whether any engine has answered, and how long engines have been held.

Ray Data wraps what a task raises and keeps only its text; the error itself travels through here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s4v_core.errors import S4VError

_ANSWER_LIMIT_S = 10.0


class _BrakeActor:
    def __init__(self) -> None:
        self.pulled = False
        self.failure: S4VError | None = None
        self.is_proven = False
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
        self.is_proven = True

    def has_proof(self) -> bool:
        return self.is_proven

    def add_held(self, seconds: float) -> None:
        self.engine_s += seconds

    def held_s(self) -> float:
        return self.engine_s


class Brake:
    """Handle that travels to the workers. Once pulled, units in flight finish and no other
    starts."""

    def __init__(self) -> None:
        # Beside the driver: on a spot node it would take the whole run with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_BrakeActor).remote()

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

    async def is_proven_now(self) -> bool:
        """Whether an engine of this run has answered a request."""
        return bool(await self._actor.has_proof.remote())

    def add_held(self, seconds: float) -> None:
        """Count the time for which an engine was held; does not wait for the count to arrive."""
        self._actor.add_held.remote(seconds)

    def held_s(self) -> float:
        """Seconds for which engines were held so far, summed over all of them.

        Raises:
            RayError: The count did not answer in time.
        """
        return float(ray.get(self._actor.held_s.remote(), timeout=_ANSWER_LIMIT_S))
