"""Low diversity of prompts: near-duplicates found by MinHash, and keywords that nobody wrote.

Two prompts are near-duplicates if so many of their neighbouring word pairs are the same. Equal
prompts are always found; near ones as surely as MinHash finds them.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import util
from itertools import pairwise
from typing import Any

from s4v_core.errors import ConfigError

PERMUTATIONS = 128
_SEED = 1


@dataclass(frozen=True, slots=True)
class Twin:
    """A prompt that is too near to an earlier one.

    Attributes:
        of: Key of the earlier one that is kept.
        similarity: Estimated share of word pairs that both have; 1 if it equals an earlier prompt,
            whether or not that was kept.
    """

    key: str
    of: str
    similarity: float


@dataclass(slots=True)
class Distinct:
    """Prompts sorted into those to use and those too near to them."""

    kept: list[str] = field(default_factory=list)
    twins: list[Twin] = field(default_factory=list)

    @property
    def share(self) -> float:
        """Share of prompts that are no near-duplicates."""
        return len(self.kept) / max(len(self.kept) + len(self.twins), 1)


class NearDuplicates:
    """Finds prompts that are near to one that was added before."""

    def __init__(self, threshold: float) -> None:
        """Args:
        threshold: Similarity from which two prompts are near; 1 finds equal ones alone.

        Raises:
            ConfigError: The package is not installed.
        """
        self._threshold = threshold
        self._equal: dict[str, str] = {}
        self._lsh: Any = None
        self._hashes: dict[str, Any] = {}
        if threshold < 1:
            if not util.find_spec("datasketch"):
                raise ConfigError(
                    "near: finding near-duplicates needs the package datasketch; install "
                    "s4v[synthesis], or set --near 1 to find equal prompts alone"
                )
            from datasketch import MinHashLSH

            self._lsh = MinHashLSH(threshold=threshold, num_perm=PERMUTATIONS)

    def add(self, key: str, text: str) -> Twin | None:
        """The earlier prompt that a prompt is near to; None, and remembered, if there is none."""
        plain = " ".join(split_words(text))
        if plain in self._equal:
            return Twin(key, self._equal[plain], 1.0)
        hashed = self._hash(text) if self._lsh is not None else None
        if hashed is not None and (near := self._find_near(hashed)):
            self._equal[plain] = near[0]
            return Twin(key, *near)
        self._equal[plain] = key
        if hashed is not None:
            self._lsh.insert(key, hashed)
            self._hashes[key] = hashed
        return None

    def _find_near(self, hashed: Any) -> tuple[str, float] | None:
        found = [(key, float(hashed.jaccard(self._hashes[key]))) for key in self._lsh.query(hashed)]
        near = [one for one in found if one[1] >= self._threshold]
        return max(near, key=lambda one: (one[1], one[0])) if near else None

    def _hash(self, text: str) -> Any:
        from datasketch import MinHash

        hashed = MinHash(num_perm=PERMUTATIONS, seed=_SEED)
        hashed.update_batch([one.encode() for one in list_pairs(text)])
        return hashed


def find_distinct(prompts: Iterable[tuple[str, str]], threshold: float) -> Distinct:
    """Sort (key, prompt) pairs, in their order."""
    known, found = NearDuplicates(threshold), Distinct()
    for key, text in prompts:
        twin = known.add(key, text)
        if twin:
            found.twins.append(twin)
        else:
            found.kept.append(key)
    return found


def list_pairs(text: str) -> set[str]:
    """Neighbouring words of a text, and its single words if it has no two."""
    words = split_words(text)
    pairs = {f"{one} {two}" for one, two in pairwise(words)}
    return pairs or set(words)


def split_words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.casefold())


@dataclass(frozen=True, slots=True)
class Coverage:
    """How many of an ability's keywords its prompts name.

    Attributes:
        missing: Keywords that no prompt names.
        curve: (prompts, keywords named so far).
        fresh: (prompts, share of them that are no near-duplicates so far).
    """

    prompts: int
    keywords: int
    named: int
    missing: tuple[str, ...]
    curve: tuple[tuple[int, int], ...]
    fresh: tuple[tuple[int, float], ...]


def measure_coverage(
    prompts: Sequence[tuple[str, str]], keywords: Sequence[str], twins: Mapping[str, str]
) -> Coverage:
    """Args:
    prompts: (key, text) in order.
    twins: Keys of near-duplicates.
    """
    wanted = {" ".join(split_words(one)): one for one in keywords}
    named: Counter[str] = Counter()
    curve, fresh, new = list[tuple[int, int]](), list[tuple[int, float]](), 0
    for number, (key, text) in enumerate(prompts, 1):
        plain = f" {' '.join(split_words(text))} "
        named.update(one for one in wanted if f" {one} " in plain)
        new += key not in twins
        curve.append((number, len(named)))
        fresh.append((number, new / number))
    missing = tuple(wanted[one] for one in wanted if one not in named)
    return Coverage(len(prompts), len(wanted), len(named), missing, tuple(curve), tuple(fresh))
