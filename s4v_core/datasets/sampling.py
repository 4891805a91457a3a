"""Nested random subsets of a data set, in the order of its file (the paper's Figure 6)."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

from s4v_core.datasets.image_sources import name_source
from s4v_core.datasets.ranking import choose
from s4v_core.datasets.record_files import check_target, read_record_file, write_record_file
from s4v_core.errors import InputError


@dataclass(frozen=True, slots=True)
class SampleReport:
    """The result of a sample: `sources` counts the records of it by image source."""

    to: str
    records: int
    total: int
    sources: Mapping[str, int]

    def as_text(self) -> str:
        """Lines for people."""
        sources = ", ".join(f"{name} {count:,}" for name, count in self.sources.items())
        return (
            f"{self.records:,} of {self.total:,} records written to {self.to}\n"
            f"records by image source: {sources}"
        )


def sample_records(data: str, to: str, count: int, seed: int) -> SampleReport:
    """Write `count` records, chosen at random; every one keeps its text.

    With one seed, smaller samples of a file are subsets of larger ones.

    Raises:
        ConfigError: The target exists.
        InputError: The file has fewer records.
    """
    check_target(to)
    total = sum(bool(span.text) for span in read_record_file(data))
    if total < count:
        raise InputError(data, f"found {total:,} records, needed {count:,}")
    chosen = set(choose(seed, "sample", range(1, total + 1), count))
    sources: Counter[str] = Counter()
    with write_record_file(to) as writer:
        for number, span in enumerate(read_record_file(data), 1):
            if span.text and number not in chosen:
                writer.skip(span)
                continue
            writer.write(span)
            if span.text:
                image = span.value.get("image") if isinstance(span.value, dict) else None
                sources[name_source(image if isinstance(image, str) else None)] += 1
    return SampleReport(to, count, total, dict(sources.most_common()))


def convert_records(data: str, to: str) -> int:
    """Write all records in the form that the target's ending says; returns their number.

    A JSON array to a JSON array, and JSON Lines to JSON Lines, are byte for byte the same.

    Raises:
        ConfigError: The target exists.
    """
    check_target(to)
    count = 0
    with write_record_file(to) as writer:
        for span in read_record_file(data):
            writer.write(span)
            count += bool(span.text)
    return count
