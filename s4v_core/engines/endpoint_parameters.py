"""Which sampling parameters an endpoint takes: learned from its refusals, and remembered.

Newer models refuse parameters that older ones want. A refused parameter is renamed or left out of
all later requests; a value that is too large, or out of its range, is the user's to change.
"""

import logging
import re
from typing import Any

from s4v_core.engines.endpoint_problems import Problem
from s4v_core.engines.sampling import SamplingConfig, list_client_changes

log = logging.getLogger(__name__)

_OLD_LENGTH, _NEW_LENGTH = "max_tokens", "max_completion_tokens"

_LEAST_NEEDED_FIRST = ("repetition_penalty", "seed", "top_p", "temperature", _OLD_LENGTH)
"""Parameters that may be adapted; where a sentence names two that exclude each other, the first of
these goes."""

_SPELLINGS = {"top_p": "topP", _OLD_LENGTH: "maxTokens", "repetition_penalty": "repetitionPenalty"}

_COMPLAINT = re.compile(
    r"not (?:\w+ )?(?:support|permit|allow|accept|recogni[sz]|valid|available)|unsupported"
    r"|(?:don't|doesn't|does not|do not|can't|cannot|can not)|unrecogni[sz]ed|unknown|unexpected"
    r"|extra|deprecated|invalid|\bonly\b|instead|disallowed|forbidden|removed",
    re.IGNORECASE,
)
"""Words of a sentence that refuses a parameter; `seed` and `temperature` are words of a caption,
too."""

_ABOUT_VALUE = re.compile(
    r"too (?:large|small|high|low|long|big)|exceed|at (?:most|least)|maximum|minimum|between"
    r"|(?:greater|less|more|fewer|smaller|larger) than|\brange\b|must be|strictly|context length",
    re.IGNORECASE,
)
"""Words of a sentence that takes the parameter and refuses its value."""


class EndpointParameters:
    """The parameters of one endpoint, for one model."""

    def __init__(self) -> None:
        self._length = _OLD_LENGTH
        self._left_out: set[tuple[str, Any]] = set()  # a value of None stands for every value
        self._accepted: set[str] = set()

    @property
    def description(self) -> str:
        """The adaptations in words, for the engine's version; empty if there are none."""
        words = [] if self._length == _OLD_LENGTH else [f"{_OLD_LENGTH} as {self._length}"]
        names = (n if value is None else f"{n}={value:g}" for n, value in self._left_out)
        if without := ", ".join(sorted(names)):
            words.append(f"without {without}")
        return "; ".join(words)

    def build(self, sampling: SamplingConfig, content: str) -> dict[str, Any]:
        """The parameters of a request, as the endpoint takes them."""
        wanted: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": sampling.seed_of(content),
            # Not one of OpenAI's; those who serve open models take it.
            "repetition_penalty": sampling.repetition_penalty,
        }
        if sampling.repetition_penalty == 1:
            del wanted["repetition_penalty"]
        kept = {
            name: value
            for name, value in wanted.items()
            if value is not None and not self._is_left_out(name, value)
        }
        return {self._length: sampling.max_tokens} | kept | list_client_changes(sampling)

    def note_accepted(self, sent: dict[str, Any]) -> None:
        """Remember that the endpoint answered a request with these parameters."""
        self._accepted |= sent.keys()

    def adapt(self, sent: dict[str, Any], problem: Problem) -> bool:
        """Learn from the refusal of a request.

        Args:
            sent: The parameters that the request had.

        Returns:
            Whether the request is to be sent again: its parameters would be others now.
        """
        name = _find_refused(sent, problem)
        if name is None:
            return False
        if name == _OLD_LENGTH:
            is_new = self._length == _OLD_LENGTH
            self._length = _NEW_LENGTH
            change = f"{_NEW_LENGTH} is sent in its place"
        else:
            value = sent[name]
            is_new = not self._is_left_out(name, value)
            is_value = name in self._accepted and name != "seed"
            self._left_out.add((name, value if is_value else None))
            change = f"it is left out, where it is {value:g}," if is_value else "it is left out"
        if is_new:
            text = "the endpoint does not take %s, and %s from now on; rows say so: %s"
            log.warning(text, name, change, problem.sentence)
        return True

    def _is_left_out(self, name: str, value: Any) -> bool:
        return (name, None) in self._left_out or (name, value) in self._left_out


def _find_refused(sent: dict[str, Any], problem: Problem) -> str | None:
    """The parameter that the endpoint does not take; None if its problem is another one."""
    if problem.is_filtered:
        return None
    candidates = [name for name in _LEAST_NEEDED_FIRST if name in sent]
    named = [name for name in candidates if _is_blamed(name, problem)]
    named = named or [name for name in candidates if _is_in_sentence(name, problem.sentence)]
    if not named:
        return None
    # A seed has no right size, so one that does not fit is left out; other values are settings.
    if named[0] != "seed" and _ABOUT_VALUE.search(problem.sentence):
        return None
    return named[0]


def _is_blamed(name: str, problem: Problem) -> bool:
    parameter = (problem.parameter or "").rpartition(".")[2]
    return parameter in (name, _SPELLINGS.get(name))


def _is_in_sentence(name: str, sentence: str) -> bool:
    spellings = "|".join(filter(None, (name, _SPELLINGS.get(name))))
    is_there = re.search(rf"(?<![A-Za-z_])(?:{spellings})(?![A-Za-z_])", sentence, re.I)
    return bool(is_there and _COMPLAINT.search(sentence))
