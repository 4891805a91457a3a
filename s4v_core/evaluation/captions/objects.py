"""The objects that a text names, by a list of names and the words that people use for each."""

from collections.abc import Iterable, Sequence

from s4v_core.evaluation.captions.object_names import IGNORED, read_table
from s4v_core.evaluation.lemmas import list_noun_forms, split_words

_COLOUR = "orange"
"""An object whose name is a colour, too."""

Forms = frozenset[str]


class ObjectFinder:
    """Finds objects in texts, singular or plural; of names that overlap, the longest counts.

    Args:
        further: Objects beyond the table, each by its name and other words for it.
    """

    def __init__(self, further: Iterable[Sequence[str]] = ()) -> None:
        self._phrases: dict[str, list[tuple[tuple[str, ...], str | None]]] = {}
        for name, synonyms in read_table().items():
            for word in synonyms:
                self._add(word, name)
        for phrase in IGNORED.split(","):
            self._add(phrase, None)
        for words in further:
            self._add_synonyms(words)

    def name(self, phrase: str) -> str | None:
        """The object that a word or phrase as a whole stands for."""
        words = _read_words(phrase)
        found = self._match(words, 0) if words else None
        return found[1] if found and found[0] == len(words) else None

    def find(self, text: str) -> set[str]:
        """The objects that a text names."""
        words, at, found = _read_words(text), 0, set[str]()
        while at < len(words):
            length, name = self._match(words, at) or (1, None)
            if name and not (name == _COLOUR and length == 1 and _is_colour(words, at)):
                found.add(name)
            at += length
        return found

    def _add_synonyms(self, words: Sequence[str]) -> None:
        names = [name for word in words if (name := self.name(word))]
        name = names[0] if names else " ".join(split_words(words[0]))
        for word in words:
            if name and self.name(word) is None:
                self._add(word, name)
                *start, last = split_words(word) or [""]
                for form in list_noun_forms(last) - {last}:
                    self._add(" ".join([*start, form]), name)

    def _add(self, phrase: str, name: str | None) -> None:
        words = tuple(split_words(phrase))
        if words:
            self._phrases.setdefault(words[0], []).append((words, name))

    def _match(self, words: Sequence[Forms], at: int) -> tuple[int, str | None] | None:
        """Length and object of the longest phrase that begins at a word."""
        best: tuple[int, str | None] | None = None
        for form in sorted(words[at]):
            for phrase, name in self._phrases.get(form, ()):
                is_longer = best is None or len(phrase) > best[0]
                if is_longer and _begins_with(words[at : at + len(phrase)], phrase):
                    best = (len(phrase), name)
        return best


def _read_words(text: str) -> list[Forms]:
    return [list_noun_forms(word) for word in split_words(text)]


def _begins_with(words: Sequence[Forms], phrase: Sequence[str]) -> bool:
    """Whether words are those of a phrase. A name that is itself a plural (shorts) has no singular,
    so a word must be the name, or have it as a form."""
    return len(words) == len(phrase) and all(
        name in forms for name, forms in zip(phrase, words, strict=True)
    )


def _is_colour(words: Sequence[Forms], at: int) -> bool:
    """Whether the word is no fruit: neither a plural, nor alone behind an article."""
    before = words[at - 1] if at else frozenset[str]()
    behind = words[at + 1] if at + 1 < len(words) else frozenset({"and"})
    is_alone = {"an", "one", "the"} & before and {"and", "on", "in", "is", "with"} & behind
    return "oranges" not in words[at] and not is_alone
