"""Words of English by the forms they may be inflections of: "cornflowers" is one of "cornflower".

Rules and a table of irregular words, so that nothing is downloaded and no dictionary is shipped.
Two words match if they share a form; a rule that makes a form nobody writes does no harm.
"""

import functools
import re
from collections.abc import Sequence

_IRREGULAR = """
    man men|woman women|child children|foot feet|tooth teeth|goose geese|mouse mice|louse lice
    |ox oxen|person people persons|die dice|penny pence|cactus cacti|fungus fungi|radius radii
    |octopus octopi|criterion criteria|medium media|datum data|axis axes|leaf leaves|loaf loaves
    |be am is are was were been being|have has had having|do does did done doing|go goes went gone
    |eat ate eaten|drink drank drunk|run ran running|sit sat sitting|stand stood|lie lay lain lying
    |fly flies flew flown|swim swam swum|ride rode ridden|drive drove driven|write wrote written
    |wear wore worn|hold held|sleep slept|sing sang sung|bring brought|catch caught|buy bought
    |think thought|teach taught|fight fought|take took taken|give gave given|speak spoke spoken
    |break broke broken|throw threw thrown|grow grew grown|blow blew blown|draw drew drawn
    |see saw seen|make made|build built|leave left|feed fed|read|lead led|hang hung|dig dug
    |win won|shoot shot|climb climbed|kneel knelt|leap leapt|shine shone|fall fell fallen|feel felt
    |gray grey|color colour colors colours colored coloured|tire tyre tires tyres
"""
_FORMS = {
    word: group.split()[0]
    for group in _IRREGULAR.replace("\n", " ").split("|")
    for word in group.split()
}
_SHORTEST_STEM = 3
_VOWELS = frozenset("aeiouy")


def split_words(text: str) -> list[str]:
    """Words without case; a hyphen and an underscore are blanks, and 's is no part of a word."""
    plain = re.sub(r"['’]s\b", "", text.casefold())  # noqa: RUF001 - a typographic apostrophe
    return re.findall(r"[^\W_]+", plain)


@functools.lru_cache(maxsize=1 << 16)
def list_forms(word: str) -> frozenset[str]:
    """A word without case, and all that it may be an inflection of."""
    forms = {word, _FORMS.get(word, word)}
    for stem in (*_strip_plural(word), *_strip_verb(word)):
        if len(stem) >= _SHORTEST_STEM and _VOWELS & set(stem):
            forms.add(_FORMS.get(stem, stem))
    return frozenset(forms)


@functools.lru_cache(maxsize=1 << 16)
def list_noun_forms(word: str) -> frozenset[str]:
    """A word without case, and all that it may be the plural of."""
    return frozenset({word, _FORMS.get(word, word), *_strip_plural(word)})


def _strip_plural(word: str) -> tuple[str, ...]:
    if not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return ()
    if word.endswith("ies"):
        return (word[:-3] + "y", word[:-1])
    if word.endswith("ves"):
        return (word[:-3] + "f", word[:-3] + "fe", word[:-1])
    if word.endswith(("ses", "xes", "zes", "ches", "shes", "oes")):
        return (word[:-2], word[:-1])
    return (word[:-1],)


def _strip_verb(word: str) -> tuple[str, ...]:
    if word.endswith("ied"):
        return (word[:-3] + "y",)
    for ending in ("ing", "ed"):
        if word.endswith(ending):
            stem = word.removesuffix(ending)
            is_doubled = len(stem) > 1 and stem[-1] == stem[-2]
            return (stem, stem + "e", *((stem[:-1],) if is_doubled else ()))
    return ()


def holds_phrase(words: Sequence[frozenset[str]], phrase: Sequence[frozenset[str]]) -> bool:
    """Whether a phrase stands among words, each by its forms, in one piece."""
    n = len(phrase)
    return n > 0 and any(
        all(phrase[at] & words[start + at] for at in range(n))
        for start in range(len(words) - n + 1)
    )


def find_forms(text: str) -> list[frozenset[str]]:
    """The words of a text, each by its forms."""
    return [list_forms(word) for word in split_words(text)]
