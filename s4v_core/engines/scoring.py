"""Scores of how well a text fits an image, computed beside an engine, in its worker.

Light: the models are imported when the first pair is scored.
"""

import asyncio
from collections import deque
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from s4v_core.engines.requests import Picture
from s4v_core.engines.scorer_spec import ScorerSpec
from s4v_core.errors import EngineError, S4VError

if TYPE_CHECKING:  # imports torch
    from s4v_core.engines.similarity import PairScorer


SCORE_FAILED = "score_failed"
"""Start of the reason of a pair that the model cannot take."""


@dataclass(frozen=True, slots=True)
class _Waiting:
    picture: Picture
    text: str
    score: "asyncio.Future[float | str]"


class BatchingScorer:
    """Scores pairs from one event loop, which never waits: batches run in a thread.

    One batch runs at a time; whatever arrives meanwhile makes up the next one.
    """

    def __init__(self, spec: ScorerSpec) -> None:
        self._spec = spec
        self._scorer: PairScorer | None = None
        self._waiting: deque[_Waiting] = deque()
        self._batches: asyncio.Task[None] | None = None

    async def score(self, picture: Picture, text: str) -> float | str:
        """How well a text fits a picture (`PairScorer` says what the number is), or the reason why
        the model cannot say.

        Raises:
            ConfigError: The checkpoint lies in a store and was replaced.
            StorageError: That store does not answer.
            EngineError: The checkpoint cannot be loaded, or fails.
        """
        score = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(picture, text, score))
        if self._batches is None or self._batches.done():
            self._batches = asyncio.create_task(self._run_batches())
        found: float | str = await score
        return found

    async def _run_batches(self) -> None:
        await asyncio.sleep(0)  # let pairs of the same tick share a batch
        while self._waiting:
            size = min(self._spec.batch_size, len(self._waiting))
            batch = [self._waiting.popleft() for _ in range(size)]
            try:
                scores = await asyncio.to_thread(self._score_batch, batch)
            except S4VError as error:
                for waiting in batch:
                    if not waiting.score.done():
                        waiting.score.set_exception(error)
                continue
            for waiting, score in zip(batch, scores, strict=True):
                if not waiting.score.done():
                    waiting.score.set_result(score)

    def _score_batch(self, batch: list[_Waiting]) -> list[float | str]:
        scorer = self._load()
        try:
            return [*scorer.score([(one.picture, one.text) for one in batch])]
        # Border to foreign code: a pair that the model cannot take must not take others with it.
        except Exception as error:
            if len(batch) > 1:
                return [score for one in batch for score in self._score_batch([one])]
            if isinstance(error, RuntimeError):  # out of memory, a broken GPU: nobody's own fault
                raise self._complain(error) from error
            return [f"{SCORE_FAILED}:{type(error).__name__}"]

    def _load(self) -> "PairScorer":
        if self._scorer is None:
            try:
                from s4v_core.engines.similarity import PairScorer  # heavy

                self._scorer = PairScorer(self._spec)
            except S4VError:
                raise
            # Border to foreign code: a broken checkpoint raises whatever its reader does.
            except Exception as error:
                raise self._complain(error) from error
        return self._scorer

    def _complain(self, error: Exception) -> EngineError:
        problem = f"cannot score with {self._spec.model}: {type(error).__name__}: {error}"
        return EngineError("quality", problem)


@lru_cache(maxsize=1)
def find_scorer(spec: ScorerSpec) -> BatchingScorer:
    """The scorer of this process; its model is loaded once."""
    return BatchingScorer(spec)
