"""Parts of speech, chunks and lemmas of English text, by TextBlob's PatternTagger and simplemma.

Both work offline, with lexicons in their packages. The tagger knows about 95 % of the words of
captions right. Its known errors are "'s" as PRP, rare verbs as nouns ("gleams") and nouns as verbs
("the tracks"): good for differences between sets under the same tagger, not for comparison with
figures of another one.
"""

import re
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Any

from s4v_core.errors import ConfigError

CLASSES = {
    "nouns": ("NN",),
    "adjectives": ("JJ",),
    "adverbs": ("RB",),
    "verbs": ("VB",),
    "numerals": ("CD",),
    "prepositions": ("IN", "TO"),
}
"""Classes of the paper's Table 7 by the beginnings of their Penn tags. IN is also the tag of some
conjunctions."""

_WORD = re.compile(r"\w")


@dataclass(frozen=True, slots=True)
class Token:
    """A word or mark: its text, Penn tag, and chunk (`B-NP`, `I-NP`, `B-VP`, ..., `O`)."""

    text: str
    tag: str
    chunk: str

    @property
    def is_word(self) -> bool:
        return _WORD.search(self.text) is not None


def parse_sentences(text: str) -> list[list[Token]]:
    """The sentences of a text, each with its tokens.

    Raises:
        ConfigError: The packages that parse are not installed.
    """
    # A line break is no word of the parser's own format.
    tagged = _load_parser()(" ".join(text.split()), tokenize=True, tags=True, chunks=True)
    sentences = [[_read_token(token) for token in line.split()] for line in tagged.splitlines()]
    return [sentence for sentence in sentences if any(token.is_word for token in sentence)]


def _read_token(token: str) -> Token:
    text, tag, chunk, *_ = token.split("/")
    return Token(text.replace("&slash;", "/"), tag, chunk)


@cache
def _load_parser() -> Any:
    try:
        from textblob.en import parse
    except ImportError:
        raise ConfigError(
            "parts of speech need the packages textblob and simplemma: pip install 's4v[analysis]'"
        ) from None
    return lambda text, **settings: str(parse(text, **settings))


@lru_cache(maxsize=256)
def find_class(tag: str) -> str | None:
    """The class of Table 7 that a tag belongs to; None for all others."""
    return next((name for name, tags in CLASSES.items() if tag.startswith(tags)), None)


@lru_cache(maxsize=1 << 16)
def find_noun_lemma(word: str) -> str:
    """The singular of an English noun."""
    import simplemma

    return simplemma.lemmatize(word.lower(), lang="en")


@lru_cache(maxsize=1 << 16)
def find_verb_lemma(word: str) -> str:
    """The infinitive of an English verb."""
    import simplemma

    word = word.lower()
    lemma = simplemma.lemmatize(word, lang="en")
    stem = word.removesuffix("ing")
    if stem == word or len(stem) < 3:  # "lying", "being"
        return lemma
    if stem.endswith("y"):
        return stem  # simplemma makes "playe" of "playing"
    if lemma == word:  # it leaves some as they are, such as "sitting"
        undoubled = stem[:-1] if stem[-1] == stem[-2] else stem
        known = (form for form in (undoubled, stem, f"{stem}e") if simplemma.is_known(form, "en"))
        return next(known, lemma)
    return lemma


def find_root_pair(sentence: list[Token]) -> tuple[str, str] | None:
    """Lemma of the head verb of the first verb phrase, and the noun that it is said of.

    The head verb is the last verb of its phrase; the noun is the last one of the first noun phrase
    in front of it. A sentence that begins with its verb, or lacks either, has no pair. This is our
    definition: the paper states neither its parser nor its cut-offs.
    """
    phrases = _list_phrases(sentence)
    kinds = [kind for kind, _ in phrases]
    if "VP" not in kinds:
        return None
    first = kinds.index("VP")
    nouns = next((_keep(p, "NN") for k, p in phrases[:first] if k == "NP" and _keep(p, "NN")), [])
    verbs = _keep(phrases[first][1], "VB")
    if not nouns or not verbs:
        return None
    return find_verb_lemma(verbs[-1]), find_noun_lemma(nouns[-1])


def _list_phrases(sentence: list[Token]) -> list[tuple[str, list[Token]]]:
    """The chunks of a sentence in order, each with its kind."""
    phrases: list[tuple[str, list[Token]]] = []
    for token in sentence:
        begins, _, kind = token.chunk.partition("-")
        if begins == "I" and phrases:
            phrases[-1][1].append(token)
        else:
            phrases.append((kind, [token]))
    return phrases


def _keep(phrase: list[Token], tag: str) -> list[str]:
    return [token.text for token in phrase if token.tag.startswith(tag)]
