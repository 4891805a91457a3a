"""Finishes an answer that passed the gate: it becomes the text of a row."""

from dataclasses import dataclass

from s4v_core.captioning.schema_gate import strip_fence


@dataclass(frozen=True, slots=True)
class Finish:
    """Texts around an answer, and openings that it loses.

    Attributes:
        prepend, append: Put before and behind the answer as they are written, spaces included.
        cut_prefix_words: Openings, of which an answer loses the longest one that it begins with;
            case is ignored, and the rest begins with a capital letter if the answer did.
        is_json: Whether the answer is JSON, which loses only a code fence around it.
    """

    prepend: str = ""
    append: str = ""
    cut_prefix_words: tuple[str, ...] = ()
    is_json: bool = False

    def apply(self, text: str) -> str:
        """The text of the row."""
        if self.is_json:
            return strip_fence(text)
        return f"{self.prepend}{self._cut_opening(text)}{self.append}"

    def _cut_opening(self, text: str) -> str:
        fitting = [words for words in self.cut_prefix_words if _begins_with(text, words)]
        if not fitting:
            return text
        rest = text[len(max(fitting, key=len)) :].lstrip(" \t\n,:;.-")
        if not rest:
            return text  # nothing but the opening: better than nothing at all
        return rest[0].upper() + rest[1:] if text[0].isupper() else rest


def _begins_with(text: str, words: str) -> bool:
    """Whether a text begins with whole words."""
    rest = text[len(words) : len(words) + 1]
    return bool(words) and text.lower().startswith(words.lower()) and not rest.isalnum()
