"""Counts of an audit while it reads a data set."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from s4v_core.datasets.image_search import FOUND, UNCHECKED
from s4v_core.datasets.image_sources import (
    TEXT_ONLY,
    estimate_sam_tar,
    find_source,
    name_pattern,
    name_source,
)
from s4v_core.datasets.record_faults import Fault, RecordReading, name_record

_MOST_PATTERNS = 200
_EXAMPLES = 20


class AuditCounts:
    """Counts of records and of their images.

    Attributes:
        records: Number of records; `kept` those without a fault.
        sources: Images by source, `source_states` the same by state.
        patterns: Images by the pattern of their path.
        unlike: Images that lie in a folder of ShareGPT4V and do not look like its own.
        oddities: Records by oddity.
        faults: Records by the reason for which they are left out.
        repeated_ids, repeated_images: Records whose id, or image, an earlier one has.
        images: All images that records without a fault name.
        lost: Examples of images that were lost, by state.
        lost_sam_tars: Missing SAM images by the estimated number of their tar.
    """

    def __init__(self) -> None:
        self.records = self.kept = 0
        self.sources: Counter[str] = Counter()
        self.source_states: dict[str, Counter[str]] = defaultdict(Counter)
        self.patterns: Counter[str] = Counter()
        self.unlike: Counter[str] = Counter()
        self.oddities: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.repeated_ids = self.repeated_images = 0
        self.images: set[str] = set()
        self.lost: dict[str, list[str]] = defaultdict(list)
        self.lost_sam_tars: Counter[int] = Counter()
        self._ids: set[int] = set()

    def add(self, record: Any, reading: RecordReading) -> None:
        """Count a record before its images are searched."""
        self.records += 1
        self.oddities.update(reading.oddities)
        self._note_id(name_record(record))
        for image in reading.images:
            self._note_image(image)
        if not reading.images:
            self.sources[TEXT_ONLY] += 1

    def judge(self, images: Iterable[str], states: Mapping[str, str], fault: Fault | None) -> None:
        """Count a record and its images once their states are known."""
        if fault:
            self.faults[fault.reason] += 1
        else:
            self.kept += 1
        for image in images:
            state = states[image]
            if state == UNCHECKED:
                continue
            self.source_states[name_source(image)][state] += 1
            if state == FOUND:
                continue
            if len(self.lost[state]) < _EXAMPLES:
                self.lost[state].append(image)
            tar = estimate_sam_tar(image)
            if tar is not None:
                self.lost_sam_tars[tar] += 1

    def _note_id(self, name: str | None) -> None:
        if name is not None:
            self.repeated_ids += hash(name) in self._ids
            self._ids.add(hash(name))

    def _note_image(self, image: str) -> None:
        self.repeated_images += image in self.images
        self.images.add(image)
        source = name_source(image)
        self.sources[source] += 1
        pattern = name_pattern(image)
        if pattern in self.patterns or len(self.patterns) < _MOST_PATTERNS:
            self.patterns[pattern] += 1
        else:
            self.patterns["other patterns"] += 1
        known = find_source(image)
        if known and not known.pattern.fullmatch(image):
            self.unlike[source] += 1
