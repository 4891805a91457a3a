"""`OUTPUT/README.md`: where captions come from and what they may be used for, in the form that
dataset hubs show."""

from collections.abc import Mapping
from typing import Any

from s4v_core import storage
from s4v_core.records.plan import PlanHead
from s4v_core.runs.counts import RunCounts

_CARD_NAME = "README.md"
_UNDECLARED = "not declared"


def write_data_card(
    output: str, head: PlanHead, counts: RunCounts, licences: Mapping[str, str]
) -> None:
    """Write the card of a run. It is derived, and may be written again at any time.

    Args:
        licences: Licence of each source, as the job declares it.
    """
    storage.replace(storage.join(output, _CARD_NAME), _card(head, counts, licences).encode())


def _card(head: PlanHead, counts: RunCounts, licences: Mapping[str, str]) -> str:
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
        *("  data_files: captions/*.parquet", "---", "", "# Captions", ""),
        "Written by a model, not by people: they may be wrong, and biased as its training was.",
        "Each row of `captions/*.parquet` is one image; where `status` is not `ok`, `reason` says",
        "why there is no caption.",
        *("", "| | |", "|---|---|"),
        *(f"| {name} | {value} |" for name, value in facts.items()),
        *("", "## Sources", "", "| source | licence of the images |", "|---|---|"),
        *(f"| {name} | {licence} |" for name, licence in sorted(licences.items()) if name != "*"),
        f"| all others | {declared} |",
        *("", "## Prompts", ""),
        *(_prompt(entry) for entry in settings.get("prompts", [])),
        *("", "## Reasons", ""),
        *(f"- {reason}: {number:,}" for reason, number in counts.reasons.items()),
    ]
    return "\n".join(lines) + "\n"


def _prompt(entry: Mapping[str, Any]) -> str:
    return f"- {entry['text']} (weight {entry['weight']:g}, sources {entry['source']})"
