"""Thoughts of models that think: cut off, counted, never shown."""

import pytest

from s4v_core.engines.thinking import AnswerPieces, is_thinking_open, split_thinking


@pytest.mark.parametrize(
    ("text", "is_open", "answer", "thought"),
    [
        ("A red ball.", False, "A red ball.", None),
        ("<think>Hm. A ball.</think>\n\nA red ball.", False, "A red ball.", "<think>Hm. A ball."),
        ("Hm. A ball.</think>A red ball.", True, "A red ball.", "Hm. A ball."),
        # A template of which nothing is known, and a model that thinks all the same.
        ("Okay, let me see.</think>\nA red ball.", False, "A red ball.", "Okay, let me see."),
        ("Hm. A ball", True, "", "Hm. A ball"),
        ("<think>Hm. A ball", False, "", "<think>Hm. A ball"),
        ("<think></think>A ball.", False, "A ball.", "<think>"),
        ("<think>a</think>b<think>c</think>d", False, "d", "<think>a</think>b<think>c"),
        ("[THINK]Hm.[/THINK]A ball.", False, "A ball.", "[THINK]Hm."),
        ("\u25c1think\u25b7Hm.\u25c1/think\u25b7A ball.", False, "A ball.", "\u25c1think\u25b7Hm."),
        ("Hm.</think><answer>A ball.</answer>", True, "A ball.", "Hm."),
        ("Hm.</think><|begin_of_box|>A ball.<|end_of_box|>", True, "A ball.", "Hm."),
        ("The sign says <thinker>.", False, "The sign says <thinker>.", None),
        ("A sign says <think> first.", False, "A sign says <think> first.", None),
    ],
)
def test_an_answer_and_its_thought(
    text: str, is_open: bool, answer: str, thought: str | None
) -> None:
    assert split_thinking(text, is_open) == (answer, thought)


def test_a_prompt_that_ends_inside_a_thought() -> None:
    assert is_thinking_open("<|im_start|>assistant\n<think>\n")
    assert not is_thinking_open("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert not is_thinking_open("ASSISTANT:")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
@pytest.mark.parametrize(
    ("text", "is_open", "answer"),
    [
        ("A red ball.", False, "A red ball."),
        ("<think>Hm.</think>\n\nA red ball.", False, "A red ball."),
        ("Hm. A.</think> A red ball.", True, "A red ball."),
        ("< 3 balls", False, "< 3 balls"),
        ("<think>Hm.", False, ""),
    ],
)
def test_a_stream_begins_with_the_answer(text: str, is_open: bool, answer: str, size: int) -> None:
    shown: list[str] = []
    pieces = AnswerPieces(shown.append, is_open)
    for start in range(0, len(text), size):
        pieces(text[start : start + size])
    assert "".join(shown).lstrip() == answer
