"""`OUTPUT/README.md`: where captions come from and what they may be used for, in the form that
dataset hubs show."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from s4v_core import storage
from s4v_core.records.plan import PlanHead
from s4v_core.runs.counts import RunCounts
from s4v_core.runs.derived_files import write_derived

CARD_NAMES = ("README.md", "DATA_CARD.md")
"""Name of the card, and its name where a user keeps a README.md."""

_UNDECLARED = "not declared"


def write_data_card(
    output: str, head: PlanHead, counts: RunCounts, licences: Mapping[str, str]
) -> None:
    """Write the card of a run. It is derived, and may be written again at any time. A README.md
    that is a user's, or that a user has edited, stays as it is; the card is DATA_CARD.md then.

    Args:
        licences: Licence of each source, as the job declares it.
    """
    card = build_card(head, counts, licences)
    write_derived(output, CARD_NAMES, card.encode())


def parse_licences(texts: Sequence[str]) -> dict[str, str]:
    """Licence by source, from `SOURCE=LICENCE` or, for all others, `LICENCE` alone."""
    pairs = (text.rpartition("=") for text in texts)
    return {source or "*": licence for source, _, licence in pairs}


def read_licences(output: str) -> dict[str, str]:
    """The licences that the job of a run declared."""
    try:
        found = json.loads(storage.read(storage.join(output, "run.json")))
    except FileNotFoundError:
        return {}
    return parse_licences(found.get("job", {}).get("licences", ()))


def build_card(
    head: PlanHead,
    counts: RunCounts,
    licences: Mapping[str, str],
    data_files: str = "captions/*.parquet",
) -> str:
    """The text of a card.

    Args:
        data_files: Where the rows lie, from the folder of the card.
    """
    settings = head.settings
    declared = licences.get("*", _UNDECLARED)
    facts = {
        "images": f"{counts.rows:,} in {len(head.inputs):,} shards",
        "captions": f"{counts.ok:,} ({counts.rejected:,} rejected, {counts.error:,} errors)",
        "model": f"`{settings.get('model')}` at `{settings.get('model_revision')}`",
        "engine": settings.get("engine"),
        "template": settings.get("template"),
        "plan": f"`{head.digest}`",
        "licence": declared,
    }
    lines = [
        *("---", "task_categories: [image-to-text]", "configs:", "- config_name: default"),
        *(f"  data_files: {json.dumps(data_files)}", "---", "", "# Captions", ""),
        "Written by a model, not by people: they may be wrong, and biased as its training was.",
        f"Each row of `{data_files}` is one image; where `status` is not `ok`, `reason` says why",
        "there is no caption.",
        *("", "| | |", "|---|---|"),
        *(f"| {name} | {value} |" for name, value in facts.items()),
        *("", "## Sources", "", "| source | licence of the images |", "|---|---|"),
        *(f"| {name} | {licence} |" for name, licence in sorted(licences.items()) if name != "*"),
        f"| all others | {declared} |",
        *("", "## Prompts", ""),
        *_list_prompts(settings),
        *("", "## Reasons", ""),
        *(f"- {reason}: {number:,}" for reason, number in counts.reasons.items()),
    ]
    return "\n".join(lines) + "\n"


def _list_prompts(settings: Mapping[str, Any]) -> list[str]:
    """The prompts; those of fields with the name of their column."""
    fields = settings.get("fields") or ()
    if not fields:
        return [_prompt(entry) for entry in settings.get("prompts", [])]
    return [
        f"- `{field['name']}`: {entry['text']}" for field in fields for entry in field["prompts"]
    ]


def _prompt(entry: Mapping[str, Any]) -> str:
    return f"- {entry['text']} (weight {entry['weight']:g}, sources {entry['source']})"
