"""Entries with images become records: ShareGPT4V JSON, and WebDataset shards with the images.

Training and test records never share a prompt: a prompt's text says which of the two it is for.
"""

import hashlib
import io
import json
import re
import tarfile
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from s4v_core import storage
from s4v_core.chat import IMAGE
from s4v_core.inputs.tar import add_member
from s4v_core.synthesis.diversity import split_words
from s4v_core.synthesis.entries import Entry
from s4v_core.synthesis.images import PlacedEntry, read_in_batches

Keep = Literal["all", "agreed"]
SPLITS = ("train", "test")
SHARDS = "shards"
"""Folder of the shards, below that of the records."""

_PER_SHARD = 256
_OURS = re.compile(r"(train|test)-\d{5}-[0-9a-f]{8}\.tar$")


@dataclass(slots=True)
class Assembly:
    """The result of the last stage.

    Attributes:
        records: Records by split.
        left_out: Entries that are no records, by reason.
        by_ability: Records by ability.
    """

    output: str
    records: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    by_ability: Counter[str] = field(default_factory=Counter)

    def as_text(self) -> str:
        text = (
            f"{self.output}: {self.records.total():,} records "
            f"({', '.join(f'{name} {self.records[name]:,}' for name in SPLITS)})"
        )
        if self.left_out:
            reasons = ", ".join(f"{name} {count:,}" for name, count in self.left_out.most_common())
            text += f"\n{self.left_out.total():,} left out: {reasons}"
        return text


def choose_split(text: str, test_share: float) -> str:
    """train or test, by the words of the prompts alone."""
    plain = " ".join(split_words(text))
    digest = hashlib.sha256(plain.encode()).digest()
    return "test" if int.from_bytes(digest[:8], "big") < test_share * 2**64 else "train"


def filter_entries(
    entries: Iterable[PlacedEntry],
    agreement: Mapping[str, bool | None],
    keep: Keep,
    ruled_out: Mapping[str, str],
    count: int,
    left_out: Counter[str],
) -> Iterator[PlacedEntry]:
    """The entries that become records; what does not is counted by reason.

    Args:
        agreement: By image id, whether the image shows what its prompt says.
        ruled_out: Reason by entry id, where a benchmark's question is answered or people refused
            the image.
        count: Most records of an ability.
    """
    have: Counter[str] = Counter()
    for one in entries:
        entry = one.entry
        reason = one.problem or ruled_out.get(entry.entry_id)
        if not reason and not entry.answer:
            reason = "no_dialogue"
        if not reason and keep == "agreed":
            found = [agreement.get(image_id) for image_id in one.image_ids]
            if not all(found):
                reason = "disagrees" if False in found else "unchecked"
        if not reason and have[entry.ability] >= count:
            reason = "beyond_count"
        if reason:
            left_out[reason] += 1
            continue
        have[entry.ability] += 1
        yield one


def write_records(output: str, entries: Iterable[PlacedEntry], test_share: float) -> Assembly:
    """Write OUTPUT/train.json, test.json, and OUTPUT/shards with their images, in place of those
    of an earlier call.

    A shard's name holds a digest of its content: a call that is cut off and given again writes
    what is missing.
    """
    result = Assembly(output)
    lists: dict[str, list[dict[str, Any]]] = {name: [] for name in SPLITS}
    waiting: dict[str, list[tuple[dict[str, Any], Sequence[bytes], tuple[str, ...]]]]
    waiting = {name: [] for name in SPLITS}
    written: list[str] = []
    numbers: Counter[str] = Counter()

    def flush(split: str) -> None:
        if waiting[split]:
            written.append(_write_shard(output, split, numbers[split], waiting[split]))
            numbers[split] += 1
            waiting[split] = []

    for one, contents in read_in_batches(entries):
        problem = next((content for content in contents if isinstance(content, str)), None)
        if problem:
            result.left_out[problem] += 1
            continue
        split = choose_split(one.entry.text, test_share)
        names = name_members(one)
        record = build_record(one.entry, names)
        lists[split].append(record)
        result.records[split] += 1
        result.by_ability[one.entry.ability] += 1
        images = [content for content in contents if isinstance(content, bytes)]
        waiting[split].append((record, images, names))
        if len(waiting[split]) >= _PER_SHARD:
            flush(split)
    for split in SPLITS:
        flush(split)
        text = json.dumps(lists[split], indent=1, ensure_ascii=False) + "\n"
        storage.replace(storage.join(output, f"{split}.json"), text.encode())
    _remove_others(output, written)
    return result


def name_members(one: PlacedEntry) -> tuple[str, ...]:
    """The images of a record in its shard, as WebDataset names several: key.png, key.1.png."""
    endings = [name.rpartition(".")[2].lower() if "." in name else "jpg" for name in one.names]
    key = one.entry.key
    return tuple(f"{key}.{f'{at}.' if at else ''}{end}" for at, end in enumerate(endings))


def build_record(entry: Entry, images: Sequence[str]) -> dict[str, Any]:
    """A record of the ShareGPT4V schema."""
    marks = f"{IMAGE}\n" * len(images)
    return {
        "id": entry.entry_id,
        "image": images[0] if len(images) == 1 else list(images),
        "conversations": [
            {"from": "human", "value": f"{marks}{entry.question}"},
            {"from": "gpt", "value": entry.answer},
        ],
        "ability": entry.ability,
    }


def _write_shard(
    output: str,
    split: str,
    number: int,
    samples: Iterable[tuple[dict[str, Any], Sequence[bytes], tuple[str, ...]]],
) -> str:
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for record, images, names in samples:
            key = names[0].partition(".")[0]
            for image, name in zip(images, names, strict=True):
                add_member(tar, name, image)
            add_member(tar, f"{key}.txt", record["conversations"][1]["value"].encode())
            about = json.dumps(record, ensure_ascii=False)
            add_member(tar, f"{key}.json", about.encode())
    data = sink.getvalue()
    name = f"{split}-{number:05d}-{hashlib.sha256(data).hexdigest()[:8]}.tar"
    storage.create(storage.join(output, SHARDS, name), data)
    return name


def _remove_others(output: str, written: Sequence[str]) -> None:
    """Remove shards of an earlier call, so that no record is there twice."""
    folder = storage.join(output, SHARDS)
    for file in storage.list_files(folder) if storage.is_folder(folder) else ():
        name = storage.base_name(file.uri)
        if _OURS.fullmatch(name) and name not in written:
            storage.remove(file.uri)
