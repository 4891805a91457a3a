"""Lets a driver stop the intake of a running flow: what is in flight finishes, no more starts."""

import ray


class _BrakeActor:
    def __init__(self) -> None:
        self.pulled = False

    def pull(self) -> None:
        self.pulled = True

    def is_pulled(self) -> bool:
        return self.pulled


class Brake:
    """Handle that travels to the tasks."""

    def __init__(self) -> None:
        self._actor = ray.remote(num_cpus=0)(_BrakeActor).remote()

    def pull(self) -> None:
        self._actor.pull.remote()

    def is_pulled(self) -> bool:
        return bool(ray.get(self._actor.is_pulled.remote()))

    async def is_pulled_now(self) -> bool:
        """The same for an event loop, which must not stand still meanwhile."""
        return bool(await self._actor.is_pulled.remote())
