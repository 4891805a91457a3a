"""How the captions of the same images differ between two runs."""

import heapq
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from s4v_core.captioning.scores import Scores, read_score_settings
from s4v_core.errors import InputError
from s4v_core.records.captions import CAPTIONS, caption_units
from s4v_core.records.plan import PlanHead, require_plan_head
from s4v_core.records.plan_writing import hash_keys
from s4v_core.records.planned_rows import read_planned_keys
from s4v_core.terminal import printable

_KEPT_UNITS = 32
"""Units of the other run that are kept in memory. Runs over the same input meet in one or two."""

_EXAMPLES = 5
_SHOWN_CHARS = 240
_COLUMNS = ["image_id", "status", "caption", "output_tokens", "image_sha256", "quality"]

Row = dict[str, Any]


@dataclass(slots=True)
class Means:
    """Sums over the captions of one run that have a counterpart in the other."""

    words: int = 0
    tokens: int = 0
    scored: int = 0
    quality: float = 0.0


@dataclass(frozen=True, slots=True, order=True)
class Example:
    """Two captions of one image, and how alike their words are (0 to 1)."""

    similarity: float
    image_id: str
    here: str
    there: str


@dataclass(slots=True)
class Comparison:
    """The result of a comparison of two runs.

    Attributes:
        both: Images that both runs have a row for and whose bytes are the same.
        replaced: Images of the same id whose bytes differ; they are left out.
        only_here, only_there: Images that only one of the runs has a row for.
        captioned: Images of `both` with a caption in both runs; all other figures are about these.
        failed_here, failed_there: Images of `both` that only the other run has a caption of.
        equal: Captions that are equal letter by letter.
        similarity: Sum of the similarities of their words.
        examples: The pairs that differ most.
        is_scored_alike: Whether both runs were scored by the same model.
    """

    output: str
    other: str
    both: int = 0
    replaced: int = 0
    only_here: int = 0
    only_there: int = 0
    captioned: int = 0
    failed_here: int = 0
    failed_there: int = 0
    equal: int = 0
    similarity: float = 0.0
    here: Means = field(default_factory=Means)
    there: Means = field(default_factory=Means)
    examples: list[Example] = field(default_factory=list)
    is_scored_alike: bool = True

    def as_text(self) -> str:
        """Lines for people."""
        lines = [
            f"compared with {printable(self.other)}:",
            f"  {self.both} images in both, {self.only_here} only here, {self.only_there} only "
            "there",
        ]
        if self.replaced:
            lines.append(f"  {self.replaced} images hold other bytes there and are left out")
        if self.failed_here or self.failed_there:
            lines.append(
                f"  {self.failed_here} have a caption only there, {self.failed_there} only here"
            )
        if not self.captioned:
            return "\n".join([*lines, "  no image has a caption in both"])
        lines += [
            f"  {self.equal} of {self.captioned} captions are equal "
            f"({self.equal / self.captioned:.1%}); their words are "
            f"{self.similarity / self.captioned:.1%} alike",
            self._describe("words", self.here.words, self.there.words),
            self._describe("tokens", self.here.tokens, self.there.tokens),
            *self._describe_quality(),
        ]
        for number, one in enumerate(self.examples):
            lines += ["  the captions that differ most:"] if not number else []
            lines += [
                f"    {printable(one.image_id)} ({one.similarity:.0%} alike)",
                f"      here:  {_shorten(one.here)}",
                f"      there: {_shorten(one.there)}",
            ]
        return "\n".join(lines)

    def _describe(self, what: str, here: int, there: int) -> str:
        mine, theirs = here / self.captioned, there / self.captioned
        return f"  {mine:.1f} {what} a caption here, {theirs:.1f} there ({mine - theirs:+.1f})"

    def _describe_quality(self) -> list[str]:
        if not self.here.scored or not self.there.scored:
            return []
        mine, theirs = (one.quality / one.scored for one in (self.here, self.there))
        text = f"  mean quality {mine:.4f} here, {theirs:.4f} there ({mine - theirs:+.4f})"
        alike = "" if self.is_scored_alike else ", but by different models: not comparable"
        return [text + alike]


def check_comparable(other: str) -> PlanHead:
    """The plan of a run that another one is to be compared with.

    Raises:
        InputError: The folder holds no caption run.
    """
    head = require_plan_head(other)
    if head.kind != CAPTIONS.folder:
        raise InputError(other, f"holds a run of {head.kind}, not of captions")
    return head


def compare_runs(output: str, other: str) -> Comparison:
    """Compare the captions of the images that two runs have in common, joined by image id.

    Two captions are alike by the words that they share: twice the number of common words
    (repetitions count, order and case do not) over the number of words of both. Reads one unit of a
    run after the other; of every image of the other run, 12 bytes are kept in memory.

    Raises:
        InputError: One of the folders holds no caption run.
    """
    head = check_comparable(output)
    there = _OtherRun(other, check_comparable(other))
    found = Comparison(output, other)
    found.is_scored_alike = _read_scorer(output, head) == _read_scorer(other, there.head)
    units, scores = caption_units(output), Scores(output)
    for unit in sorted(units.list_done() & set(head.units)):
        for row in scores.fill_in(unit, _read_rows(output, unit)):
            _count(found, row, there.find(row["image_id"]))
    found.only_there = there.rows - found.both - found.replaced
    found.examples.sort()
    return found


def compare_words(one: str, other: str) -> float:
    """How alike the words of two texts are: 1 for the same words, 0 for none in common."""
    ours, theirs = Counter(one.lower().split()), Counter(other.lower().split())
    total = ours.total() + theirs.total()
    return 2 * (ours & theirs).total() / total if total else 1.0


def _count(found: Comparison, row: Row, there: Row | None) -> None:
    if there is None:
        found.only_here += 1
        return
    hashes = row["image_sha256"], there["image_sha256"]
    if None not in hashes and hashes[0] != hashes[1]:
        found.replaced += 1
        return
    found.both += 1
    is_ok, is_ok_there = row["status"] == "ok", there["status"] == "ok"
    found.failed_here += is_ok_there and not is_ok
    found.failed_there += is_ok and not is_ok_there
    if is_ok and is_ok_there:
        _count_captions(found, row, there)


def _count_captions(found: Comparison, row: Row, there: Row) -> None:
    found.captioned += 1
    for means, one in ((found.here, row), (found.there, there)):
        means.words += len(one["caption"].split())
        means.tokens += one["output_tokens"] or 0
        if None not in (row["quality"], there["quality"]):
            means.scored += 1
            means.quality += one["quality"]
    if row["caption"] == there["caption"]:
        found.equal += 1
        found.similarity += 1.0
        return
    alike = compare_words(row["caption"], there["caption"])
    found.similarity += alike
    example = Example(alike, row["image_id"], row["caption"], there["caption"])
    found.examples = heapq.nsmallest(_EXAMPLES, [*found.examples, example])


class _OtherRun:
    """Rows of a run by image id, whatever its units are."""

    def __init__(self, output: str, head: PlanHead) -> None:
        self.head, self._output, self._scores = head, output, Scores(output)
        done = caption_units(output).list_done() & set(head.units)
        self.rows = sum(head.unit_rows[unit] for unit in done)
        self._hashes, self._units = _index_keys(output, done)
        self._kept: OrderedDict[int, dict[str, Row]] = OrderedDict()

    def find(self, image_id: str) -> Row | None:
        """The row of an image; None if there is none."""
        [wanted] = hash_keys(pa.chunked_array([[image_id]], pa.string()))
        first = np.searchsorted(self._hashes, wanted, "left")
        last = np.searchsorted(self._hashes, wanted, "right")
        for unit in self._units[first:last]:
            if row := self._read(int(unit)).get(image_id):
                return row
        return None

    def _read(self, unit: int) -> dict[str, Row]:
        if unit not in self._kept:
            rows = self._scores.fill_in(unit, _read_rows(self._output, unit))
            self._kept[unit] = {row["image_id"]: row for row in rows}
            if len(self._kept) > _KEPT_UNITS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(unit)
        return self._kept[unit]


def _index_keys(output: str, done: set[int]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int32]]:
    """Hashes of the image ids of the units that are done, sorted, and the unit of each."""
    hashes, units = [np.empty(0, np.int64)], [np.empty(0, np.int32)]
    for unit, keys in enumerate(read_planned_keys(output)):
        if unit in done:
            hashes.append(hash_keys(pa.chunked_array([keys], pa.string())))
            units.append(np.full(len(keys), unit, np.int32))
    whole, places = np.concatenate(hashes), np.concatenate(units)
    order = np.argsort(whole, kind="stable")
    return whole[order], places[order]


def _read_rows(output: str, unit: int) -> list[Row]:
    rows: list[Row] = caption_units(output).read_columns(unit, _COLUMNS).to_pylist()
    return rows


def _read_scorer(output: str, head: PlanHead) -> Any:
    """The scorer of a run's scores; scores that were computed afterwards count first."""
    return read_score_settings(output) or head.settings.get("quality")


def _shorten(text: str) -> str:
    plain = printable(" ".join(text.split()))
    return plain if len(plain) <= _SHOWN_CHARS else f"{plain[:_SHOWN_CHARS]} ..."
