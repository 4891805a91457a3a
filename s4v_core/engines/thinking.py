"""Models that think before they answer: their thoughts are cut off, counted, and never shown."""

from collections.abc import Callable

MARKS = (
    ("<think>", "</think>"),  # Qwen3, GLM-4.1V, InternVL3.5, DeepSeek and most others
    ("<thinking>", "</thinking>"),
    ("<thought>", "</thought>"),
    ("<reasoning>", "</reasoning>"),
    ("\u25c1think\u25b7", "\u25c1/think\u25b7"),  # Kimi-VL
    ("[THINK]", "[/THINK]"),  # Magistral, Mistral Small 4
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("<|channel>thought", "<channel|>"),  # Gemma 4
)
"""Where thoughts begin and end, as the models' own chat templates write it."""

UNFINISHED = "thinking_unfinished"
"""Reason of a request whose tokens ended while the model still thought."""

UNFINISHED_WORDS = "the longest answer (--sampling.max-tokens) ended while the model was thinking"

_WRAPPINGS = (("<answer>", "</answer>"), ("<|begin_of_box|>", "<|end_of_box|>"))
"""Marks that some models put around the answer behind their thoughts (GLM-4.1V, GLM-4.5V)."""


ANSWER_MARKS = frozenset(mark for pair in (*MARKS, *_WRAPPINGS) for mark in pair)
"""Marks around thoughts and answers; none of them ends a turn."""


def is_thinking_open(prompt: str) -> bool:
    """Whether a prompt ends inside a thought, as the templates of pure thinking models do."""
    tail = prompt.rstrip()
    return any(tail.endswith(start) for start, _ in MARKS)


def split_thinking(text: str, is_open: bool = False) -> tuple[str, str | None]:
    """Split a generated text into the answer and the thought before it.

    Args:
        is_open: The prompt ended inside a thought, so that the text begins with the rest of it.

    Returns:
        The answer, empty if the thought has no end; and the thought, None if there is none.
    """
    ends = [(text.rfind(end), len(end)) for _, end in MARKS if end in text]
    if ends:
        at, length = max(ends)
        return unwrap_answer(text[at + length :]), text[:at]
    begins = any(text.lstrip().startswith(start) for start, _ in MARKS)
    return ("", text) if is_open or begins else (text, None)


def unwrap_answer(text: str) -> str:
    """An answer without the marks that some thinking models put around it."""
    text = text.strip()
    for start, end in _WRAPPINGS:
        if text.startswith(start):
            text = text.removeprefix(start).removesuffix(end).strip()
    return text


class AnswerPieces:
    """Passes on the pieces of a streamed text from where its answer begins.

    Args:
        on_piece: Called with each piece of the answer.
        is_open: The prompt ended inside a thought.
    """

    def __init__(self, on_piece: Callable[[str], None], is_open: bool) -> None:
        self._on_piece, self._is_open = on_piece, is_open
        self._held, self._is_answer = "", False

    def __call__(self, piece: str) -> None:
        if self._is_answer:
            self._on_piece(piece)
            return
        self._held += piece
        if self._may_be_thinking():
            return
        answer, thought = split_thinking(self._held, self._is_open)
        self._is_answer = True
        if left := answer if thought is None else answer.lstrip():
            self._on_piece(left)

    def _may_be_thinking(self) -> bool:
        text = self._held.lstrip()
        if any(end in text for _, end in MARKS):
            return False
        starts = [start for start, _ in MARKS]
        begins = any(text.startswith(start) or start.startswith(text) for start in starts)
        return self._is_open or begins
