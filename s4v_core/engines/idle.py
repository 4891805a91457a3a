"""The engine of a task that computes its answers itself and asks nobody."""

import time

from s4v_core.engines.requests import Generation, OnPiece, Request, refuse
from s4v_core.engines.sampling import SamplingConfig


class IdleEngine:
    """Refuses every request. It only holds the worker's place, and its GPU if it has one."""

    version = "none"
    slots = 1

    def __init__(self) -> None:
        self.last_sign = time.monotonic()

    async def generate(
        self, request: Request, sampling: SamplingConfig, on_piece: OnPiece | None = None
    ) -> Generation:
        return refuse("no_engine")

    def kill(self) -> None:
        """Nothing runs."""

    def close(self) -> None:
        """Nothing is held."""
