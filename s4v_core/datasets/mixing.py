"""Replaces detailed descriptions of a mixture by captions, as the paper does with 23K of LLaVA's
665K (Sec. 4.3). Every other record keeps its bytes.

The files are read twice: once to choose, once to write. In memory are the captions chosen.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO, Any, Literal

from s4v_core import storage
from s4v_core.datasets.detail_questions import (
    DETAIL_QUESTIONS,
    is_detailed_description,
    normalise_question,
)
from s4v_core.datasets.image_sources import name_source
from s4v_core.datasets.ranking import choose
from s4v_core.datasets.record_files import (
    check_free,
    check_target,
    read_record_file,
    write_record_file,
)
from s4v_core.errors import ConfigError, InputError
from s4v_core.inputs.json_stream import Span

OTHERS = "others"
"""Quota of all sources that have none of their own."""

Surplus = Literal["keep", "drop"]
"""The fate of detailed descriptions beyond the quotas."""


@dataclass(frozen=True, slots=True)
class MixReport:
    """The result of a mix.

    Attributes:
        to, replaced_file: The mixture, and the list of what replaced what.
        records: Number of records in the mixture.
        details: Detailed descriptions that the mixture had before.
        replaced: Captions that took their places, by quota; `dropped` and `kept` count the
            detailed descriptions beyond the quotas.
        sources: Records of the new mixture by image source.
    """

    to: str
    replaced_file: str
    records: int
    details: int
    replaced: Mapping[str, int]
    dropped: int
    kept: int
    sources: Mapping[str, int]

    def as_text(self) -> str:
        """Lines for people."""
        quotas = ", ".join(f"{name} {count:,}" for name, count in self.replaced.items())
        sources = ", ".join(f"{name} {count:,}" for name, count in self.sources.items())
        return (
            f"{self.records:,} records written to {self.to}\n"
            f"{sum(self.replaced.values()):,} of {self.details:,} detailed descriptions replaced "
            f"({quotas}), {self.kept:,} kept, {self.dropped:,} dropped; what replaced what stands "
            f"in {self.replaced_file}\n"
            f"records by image source: {sources}"
        )


def parse_quotas(texts: Sequence[str], scale: float = 1.0) -> dict[str, int]:
    """Captions by source, from texts like `coco=9000`.

    Args:
        scale: Factor on every quota.

    Raises:
        ConfigError: A text is no quota, or names a source again.
    """
    quotas: dict[str, int] = {}
    for text in texts:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal() or name in quotas:
            raise ConfigError(
                f"quota: found {text!r}, allowed a source and its number once, such as coco=9000"
            )
        quotas[name] = round(int(number) * scale)
    return quotas


def mix_captions(
    mixture: str,
    captions: str,
    to: str,
    quotas: Mapping[str, int],
    *,
    seed: int,
    surplus: Surplus = "keep",
    questions: Sequence[str] = DETAIL_QUESTIONS,
) -> MixReport:
    """Write a mixture whose detailed descriptions are replaced by captions, in their places.

    Args:
        quotas: Captions by source; `others` are all sources without a quota.
        questions: Questions by which detailed descriptions are told.

    Raises:
        ConfigError: A target exists.
        InputError: There are too few detailed descriptions, or captions of a source.
    """
    names = _Targets(to)
    details = _find_details(mixture, questions)
    chosen = _choose_captions(captions, quotas, seed)
    wanted = sum(map(len, chosen.values()))
    if wanted > len(details):
        raise InputError(
            mixture,
            f"found {len(details):,} detailed descriptions by their questions, needed {wanted:,}; "
            "lower the quotas or --scale, or name further questions by --questions",
        )
    places = choose(seed, "details", details, wanted)
    pairs = dict(zip(places, _interleave(chosen, captions, seed), strict=True))
    dropped = set(details) - pairs.keys() if surplus == "drop" else set()
    writer = _MixWriter(mixture, pairs, dropped)
    with NamedTemporaryFile() as lines:
        with write_record_file(to) as records:
            for span in writer.read_spans(lines):
                if span.value is _DROPPED:
                    records.skip(span)
                else:
                    records.write(span)
        lines.flush()
        storage.create_file(names.replaced, Path(lines.name))
    return MixReport(
        to,
        names.replaced,
        writer.records,
        len(details),
        {name: len(numbers) for name, numbers in chosen.items()},
        len(dropped),
        len(details) - wanted - len(dropped),
        dict(writer.sources.most_common()),
    )


class _Targets:
    """Names of what is written; refuses what exists before any work is done."""

    def __init__(self, to: str) -> None:
        self.replaced = f"{to}.replaced.jsonl"
        check_target(to)
        check_free(self.replaced)


def _find_details(mixture: str, questions: Sequence[str]) -> list[int]:
    known = frozenset(map(normalise_question, questions))
    spans = enumerate(read_record_file(mixture), 1)
    return [number for number, span in spans if is_detailed_description(span.value, known)]


def _choose_captions(captions: str, quotas: Mapping[str, int], seed: int) -> dict[str, list[int]]:
    """Numbers of the records chosen for each quota."""
    found: dict[str, list[int]] = defaultdict(list)
    for number, span in enumerate(read_record_file(captions), 1):
        image = _get_image(span.value)
        if span.text and image:
            source = name_source(image)
            found[source if source in quotas else OTHERS].append(number)
    for name, quota in quotas.items():
        if len(found[name]) < quota:
            counts = ", ".join(f"{source} {len(numbers):,}" for source, numbers in found.items())
            raise InputError(captions, f"needed {quota:,} captions of {name}, found {counts}")
    return {name: choose(seed, name, found[name], quota) for name, quota in quotas.items()}


@dataclass(frozen=True, slots=True)
class _Caption:
    """A caption that takes a place: its record and number, and the quota it counts for."""

    span: Span
    number: int
    quota: str


def _interleave(chosen: Mapping[str, list[int]], captions: str, seed: int) -> list[_Caption]:
    """The captions of all quotas in one random order."""
    quota_of = {number: name for name, numbers in chosen.items() for number in numbers}
    spans = enumerate(read_record_file(captions), 1)
    found = {number: span for number, span in spans if number in quota_of}
    order = choose(seed, "order", quota_of, len(quota_of))
    return [_Caption(found[number], number, quota_of[number]) for number in order]


_DROPPED = object()


class _MixWriter:
    """Reads a mixture with captions in the places of its detailed descriptions."""

    def __init__(self, mixture: str, pairs: Mapping[int, _Caption], dropped: set[int]) -> None:
        self._mixture, self._pairs, self._dropped = mixture, pairs, dropped
        self.records = 0
        self.sources: Counter[str] = Counter()

    def read_spans(self, lines: IO[bytes]) -> Iterator[Span]:
        """Yield the spans of the new mixture; dropped records have the value _DROPPED.

        Args:
            lines: Gets a line of JSON for every record that is replaced or dropped.
        """
        for number, span in enumerate(read_record_file(self._mixture), 1):
            caption = self._pairs.get(number)
            if caption or number in self._dropped:
                lines.write(json.dumps(_describe(number, span, caption)).encode() + b"\n")
            if number in self._dropped:
                yield replace(span, value=_DROPPED)
                continue
            if caption:
                span = replace(span, text=caption.span.text, value=caption.span.value)
            if span.text:
                self.records += 1
                self.sources[name_source(_get_image(span.value))] += 1
            yield span


def _describe(number: int, span: Span, caption: _Caption | None) -> dict[str, Any]:
    """A line about a record that is replaced, or dropped."""
    about: dict[str, Any] = {"record": number, "was": _name(span.value), "caption": None}
    if caption:
        about["caption"] = {
            "record": caption.number,
            "quota": caption.quota,
            **_name(caption.span.value),
        }
    return about


def _name(record: dict[str, Any]) -> dict[str, Any]:
    return {"id": record.get("id"), "image": record.get("image")}


def _get_image(record: Any) -> str | None:
    image = record.get("image") if isinstance(record, dict) else None
    return image if isinstance(image, str) else None
