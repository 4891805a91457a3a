"""Prompt texts in the open: the paper's, and a library of others by name, each with its source."""

from s4v_core.prompts.library import CAPTION, LIBRARY, NamedPrompt, find_prompt

__all__ = ["CAPTION", "LIBRARY", "NamedPrompt", "find_prompt"]
