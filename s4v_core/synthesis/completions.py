"""Requests for writers that were tuned little or not at all: a list of examples to be continued.

A small model follows examples and no instructions. Where a text must repeat its prompts, they are
the given start of the answer.
"""

from collections.abc import Sequence

from s4v_core.synthesis.abilities import Example


def complete(
    kind: str, prompts: Sequence[str], offered: Sequence[str], examples: Sequence[Example]
) -> tuple[str, str]:
    """The text to continue, and the given start of the answer.

    Args:
        offered: Keywords of a request for prompts; the first one begins the answer.
    """
    shown = "".join(f"{_show(kind, one)}\n\n" for one in examples)
    if kind == "prompts":
        return f"{shown}Prompt: ", f"(({offered[0]}" if offered else "(("
    label = "Description:" if kind == "dialogues" else "Question:"
    lines = "\n".join(prompts)
    return f"{shown}Prompt: ", f"{lines}\n{label}"


def list_stops(kind: str) -> tuple[str, ...]:
    """Texts that end an answer: every example ends with an empty line."""
    return ("\n\n",)


def _show(kind: str, example: Example) -> str:
    lines = "\n".join(example.prompts)
    if kind == "prompts":
        return f"Prompt: {lines}"
    if kind == "dialogues":
        return f"Prompt: {lines}\nDescription: {example.description}"
    return f"Prompt: {lines}\nQuestion: {example.question}\nResponse: {example.response}"
