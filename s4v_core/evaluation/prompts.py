"""Prompts as LLaVA-1.5 and ShareGPT4V asked them."""

from collections.abc import Mapping

from s4v_core.prompts.instructions import LETTER, SHORT


def list_options(options: Mapping[str, str]) -> str:
    """Options one a line, `A. text`."""
    return "\n".join(f"{letter}. {text}" for letter, text in options.items())


def ask_letter(question: str, options: Mapping[str, str], instruction: str = LETTER) -> str:
    """A question, its options and the instruction to answer with a letter."""
    return "\n".join([question, list_options(options), instruction])


def ask_short(question: str) -> str:
    """A question and the instruction to answer in a word or phrase."""
    return f"{question}\n{SHORT}"
