"""The review of a caption that passed the gate's rules about text: how well it fits its image, and
the verdicts of the user's plug-ins."""

from dataclasses import dataclass

from s4v_core.captioning.gate_plugins import ask_plugins
from s4v_core.engines.ladder import Verdict
from s4v_core.engines.requests import Picture, Request
from s4v_core.engines.scorer_spec import ScorerSpec
from s4v_core.engines.scoring import find_scorer

LOW_QUALITY = "low_quality"
"""Reason of a caption whose score is below the gate's least."""


@dataclass(frozen=True, slots=True)
class Reviewer:
    """Reviews captions in the worker that drew them. Small and picklable.

    Attributes:
        scorer: Scores captions; None if they have no scores.
        min_quality: Least score of a caption; None accepts any.
        plugins: The user's filters, as `module:function`.
    """

    scorer: ScorerSpec | None = None
    min_quality: float | None = None
    plugins: tuple[str, ...] = ()

    @property
    def has_rules(self) -> bool:
        """Whether it can reject a caption."""
        return self.min_quality is not None or bool(self.plugins)

    async def review(self, request: Request, text: str) -> Verdict:
        """Score a caption and ask the plug-ins about it.

        Raises:
            EngineError: The scorer cannot be loaded, or fails.
        """
        picture = request.images[0] if request.images else None
        quality = await self._score(picture, text)
        if isinstance(quality, str):
            return Verdict(quality, failure="the scorer cannot take this image and its caption")
        if quality is not None and self.min_quality is not None and quality < self.min_quality:
            return Verdict(LOW_QUALITY, quality)
        if not self.plugins:
            return Verdict(None, quality)
        reason, failure = await ask_plugins(self.plugins, picture, text)
        return Verdict(reason, quality, failure)

    async def _score(self, picture: Picture | None, text: str) -> float | str | None:
        if self.scorer is None or picture is None:
            return None
        return await find_scorer(self.scorer).score(picture, text)
