"""The card of a data set: its counts, where its texts and images come from, and their licences."""

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from s4v_core import storage
from s4v_core.datasets.image_sources import SOURCES, TEXT_ONLY, name_source
from s4v_core.datasets.record_faults import read_fields
from s4v_core.datasets.record_files import check_free, read_record_file
from s4v_core.errors import ConfigError

_CAPTION_LICENCE = "CC BY-NC 4.0, and the terms of use of OpenAI; research only"

_PUBLISHED = {
    "sharegpt4v_instruct_gpt4-vision_cap100k": (
        102_025,
        "Captions by GPT4-Vision, collected with prompts for each kind of image (Sec. 3.2).",
    ),
    "share-captioner_coco_lcs_sam_1246k_1107": (
        1_246_901,
        "Captions by Share-Captioner, a model trained on the 100K (Sec. 3.3).",
    ),
    "sharegpt4v_mix665k_cap23k_coco-ap9k_lcs3k_sam9k_div2k": (
        665_058,
        "LLaVA-1.5's mixture, whose detailed descriptions are replaced by 23K of the 100K "
        "(Sec. 4.3).",
    ),
}
"""Records and origin of the three published files, by name."""


def write_set_card(
    data: str, to: str, provenance: Sequence[str] = (), licence: str = ""
) -> dict[str, Any]:
    """Write the card of a data set as Markdown; returns what was counted.

    Args:
        provenance: Sentences about where the texts come from.
        licence: Licence of the texts; by default that of ShareGPT4V for its own files.

    Raises:
        ConfigError: The card exists, or is no .md file.
    """
    if not to.endswith(".md"):
        raise ConfigError(f"to: found {to!r}, allowed the name of a card that ends in .md")
    check_free(to)
    facts = _count(data)
    card = _build_card(data, facts, provenance, licence)
    with NamedTemporaryFile() as file:
        Path(file.name).write_text(card, encoding="utf-8")
        if not storage.create_file(to, Path(file.name)):
            check_free(to)
    return facts


def _count(data: str) -> dict[str, Any]:
    sources: Counter[str] = Counter()
    totals: Counter[str] = Counter()
    images: set[int] = set()
    for number, span in enumerate(read_record_file(data, keeps_bad=True), 1):
        if not span.text:
            break
        reading = read_fields(data, number, span.value)
        sources.update([name_source(image) for image in reading.images] or [TEXT_ONLY])
        images.update(map(hash, reading.images))
        answers = [] if reading.fault else _list_answers(span.value)
        totals.update(records=1, faults=bool(reading.fault), answers=len(answers))
        totals.update(characters=sum(map(len, answers)))
    return {**totals, "images": len(images), "sources": dict(sources.most_common())}


def _list_answers(record: Any) -> list[str]:
    turns = record.get("conversations") or record.get("messages") or ()
    answers = [turn for turn in turns if turn.get("from", turn.get("role")) in _ANSWERERS]
    texts = [turn.get("value", turn.get("content")) for turn in answers]
    return [text for text in texts if isinstance(text, str)]


_ANSWERERS = ("gpt", "assistant")


def _build_card(data: str, facts: dict[str, Any], provenance: Sequence[str], licence: str) -> str:
    name = storage.base_name(data)
    published = next((about for known, about in _PUBLISHED.items() if name.startswith(known)), None)
    origin = [*provenance] or ([published[1]] if published else ["Not declared."])
    texts = licence or (_CAPTION_LICENCE if published else "not declared")
    mean = facts["characters"] / facts["answers"] if facts["answers"] else 0
    expected = f" (published: {published[0]:,})" if published else ""
    rows = {
        "records": f"{facts['records']:,}{expected}",
        "of which cannot be used": f"{facts['faults']:,}",
        "different images": f"{facts['images']:,}",
        "answers": f"{facts['answers']:,}, {mean:,.0f} characters on average",
        "licence of the texts": texts,
    }
    licences = {source.name: source.licence for source in SOURCES}
    lines = [
        *("---", "task_categories: [image-to-text]", "configs:", "- config_name: default"),
        *(f"  data_files: {json.dumps(name)}", "---", "", f"# {name}", "", *origin, ""),
        *("| | |", "|---|---|", *(f"| {key} | {value} |" for key, value in rows.items()), ""),
        *("## Sources", "", "| source | records | licence of the images |", "|---|---|---|"),
        *(
            f"| {source} | {count:,} | {licences.get(source, _no_licence(source))} |"
            for source, count in facts["sources"].items()
        ),
        *("", "Images are not part of the data set, and are not redistributed with it."),
        "Models trained on captions by GPT4-Vision, or by its students, are for research only.",
    ]
    return "\n".join(lines) + "\n"


def _no_licence(source: str) -> str:
    return "no images" if source == TEXT_ONLY else "not declared"
