"""What a driver and the tasks of its flow tell each other: stop the intake, why it failed, and how
long engines have been held.

Ray Data wraps what a task raises and keeps only its text; the error itself travels through here.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from s4v_core.errors import S4VError

ANSWER_LIMIT_S = 10.0


class _BrakeActor:
    def __init__(self) -> None:
        self.pulled = False
        self.failure: S4VError | None = None
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

    def tell_held(self, seconds: float) -> None:
        self.engine_s += seconds

    def held_s(self) -> float:
        return self.engine_s


class Brake:
    """Handle that travels to the tasks. Units in flight finish, no further one starts."""

    def __init__(self) -> None:
        # Beside the driver: on a spot node it would take the whole run with it.
        here = NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)
        self._actor = ray.remote(num_cpus=0, scheduling_strategy=here)(_BrakeActor).remote()

    def pull(self) -> None:
        self._actor.pull.remote()

    def is_pulled(self) -> bool:
        return bool(ray.get(self._actor.is_pulled.remote()))

    async def is_pulled_now(self) -> bool:
        """The same for an event loop, which must not stand still meanwhile."""
        return bool(await self._actor.is_pulled.remote())

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Tell the driver which of our errors ends the task; it stops the intake, too."""
        try:
            yield
        except S4VError as error:
            ray.get(self._actor.report.remote(error))
            raise

    def first_failure(self) -> S4VError | None:
        """The first error that a task reported, if any did."""
        found: S4VError | None = ray.get(self._actor.first_failure.remote())
        return found

    def tell_held(self, seconds: float) -> None:
        """An engine was held for so much longer; nobody waits until this arrives."""
        self._actor.tell_held.remote(seconds)

    def held_s(self) -> float:
        """Seconds that engines were held so far, of all of them together.

        Raises:
            RayError: No answer in a while.
        """
        return float(ray.get(self._actor.held_s.remote(), timeout=ANSWER_LIMIT_S))
