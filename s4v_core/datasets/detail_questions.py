"""Tells detailed descriptions among the records of a mixture by their question."""

from typing import Any

from s4v_core.chat import IMAGE

# Human turns of ShareGPT4V's captions, which it drew from LLaVA's detailed descriptions.
DETAIL_QUESTIONS = (
    "What do you see happening in this image?",
    "What do you think is going on in this snapshot?",
    "Can you elaborate on the elements of the picture provided?",
    "Describe the following image.",
    "Write a detailed description of the given image.",
    "Explain the visual content of the image in great detail.",
    "Analyze the image in a comprehensive and detailed manner.",
    "Can you describe the main features of this image for me?",
    "Describe the following scene.",
    "What are the key elements in this picture?",
    "What's happening in the scene?",
    "What is this photo about?",
)
"""Known questions of detailed descriptions."""


def is_detailed_description(record: Any, questions: frozenset[str]) -> bool:
    """Whether a record is one image, one of these questions, and its answer."""
    if not isinstance(record, dict) or not isinstance(record.get("image"), str):
        return False
    turns = record.get("conversations")
    if not isinstance(turns, list) or len(turns) != 2:
        return False
    question = turns[0].get("value") if isinstance(turns[0], dict) else None
    return isinstance(question, str) and normalise_question(question) in questions


def normalise_question(question: str) -> str:
    """A question without image marks, case and marks at its end."""
    return " ".join(question.replace(IMAGE, " ").split()).rstrip(".?!").lower()
