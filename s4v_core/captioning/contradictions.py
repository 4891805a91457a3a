"""Finds objects that a caption names in one place and denies in another. Pure text, English.

Made to be right when it speaks rather than to find everything: a denial counts only if it is about
the whole picture ("There are no people in the image"), not about a part of it ("no people in the
background"), and not if it leaves something out ("no other people", "no text except a sign").
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_GROUPS = {
    "people": (
        "person persons people human humans man men woman women boy boys girl girls child children "
        "kid kids baby babies toddler lady ladies gentleman pedestrian pedestrians crowd player "
        "players passenger passengers"
    ),
    "animals": (
        "animal animals dog dogs puppy cat cats kitten horse horses cow cows sheep goat goats bird "
        "birds elephant elephants zebra zebras giraffe giraffes bear bears"
    ),
    "vehicles": (
        "vehicle vehicles car cars truck trucks bus buses van vans motorcycle motorcycles taxi "
        "taxis"
    ),
    "trees": "tree trees",
    "buildings": "building buildings house houses skyscraper skyscrapers",
    "clouds": "cloud clouds",
    "shapes": "shape shapes circle circles square squares triangle triangles",
    "furniture": "furniture chair chairs table tables sofa couch bed beds desk",
}
"""General words that deny all the words of their line; any other word denies only itself."""

_GENERAL = {
    "people": ("person", "people", "human", "humans", "humans or animals", "individuals"),
    "animals": ("animal", "animals"),
    "vehicles": ("vehicle", "vehicles"),
    "trees": ("tree", "trees"),
    "buildings": ("building", "buildings"),
    "clouds": ("cloud", "clouds"),
    "shapes": ("shape", "shapes"),
    "furniture": ("furniture",),
}

_WORDS = {word: group for group, words in _GROUPS.items() for word in words.split()}
_DENIES_GROUP = {word: group for group, words in _GENERAL.items() for word in words}

_NOUN = "|".join(sorted({*_WORDS, *_DENIES_GROUP}, key=len, reverse=True))
_WHOLE = r"(?:image|picture|photo|photograph|scene|frame|view)"
_DENIAL = re.compile(
    rf"\b(?:there (?:are|is) no|contains? no|shows? no|has no|have no|devoid of|free of|"
    rf"without any|no)\s+(?:visible |discernible |identifiable |human )?"
    rf"(?P<first>{_NOUN})(?:(?:,| or| and|, or|, and) (?:any |no )?(?P<second>{_NOUN}))?"
    rf"(?P<rest>[^.;!?\n]*)"
)
"""The nouns that are denied, and the rest of their clause."""

_ABOUT_ALL = re.compile(
    rf"^(?:,? ?(?:or other [a-z]+|present|visible|seen|shown|depicted|are|is|can be|to be|at all|"
    rf"anywhere|in (?:the|this) (?:entire |whole )?{_WHOLE}))*\s*$"
)
"""The rest of a clause that denies something of the whole picture."""

_BEGINS = re.compile(rf"(?:^|[.;!?\n,]\s*|\b(?:and|but) )(?:in (?:the|this) {_WHOLE},? )?$")
"""Words and marks in front of a bare "no ..." that make it a clause of its own."""


@dataclass(frozen=True, slots=True)
class Contradiction:
    """The statements of a caption about one object.

    Attributes:
        denied: The words that deny it.
        named: The word that names it all the same.
    """

    denied: str
    named: str

    def as_text(self) -> str:
        return f"names {self.named!r}, but says {self.denied!r}"


def find_contradiction(texts: Sequence[str]) -> Contradiction | None:
    """The first object that one of the texts about an image names and one of them denies.

    Args:
        texts: A caption, or all texts about the same image (caption, tags, further captions).
    """
    lowered = [text.lower() for text in texts]
    denials = [(at, found) for at, text in enumerate(lowered) for found in _find_denials(text)]
    if not denials:
        return None
    for at, (start, end, noun) in denials:
        wanted = _list_denied_words(noun)
        for other, text in enumerate(lowered):
            rest = f"{text[:start]}.{text[end:]}" if other == at else text
            if named := _find_named(rest, wanted):
                return Contradiction(lowered[at][start:end].strip(), named)
    return None


def _find_denials(text: str) -> list[tuple[int, int, str]]:
    """Start and end of each denial about the whole picture, and the noun that it denies."""
    if (
        "no " not in text
        and "devoid" not in text
        and "free of" not in text
        and "without" not in text
    ):
        return []  # nearly all captions
    found = []
    for match in _DENIAL.finditer(text):
        is_bare = match[0].startswith("no ")
        if is_bare and not _BEGINS.search(text[: match.start()]):
            continue
        if not _ABOUT_ALL.match(match["rest"]):
            continue
        found += [
            (match.start(), match.end(), noun) for noun in (match["first"], match["second"]) if noun
        ]
    return found


def _list_denied_words(noun: str) -> set[str]:
    if group := _DENIES_GROUP.get(noun):
        return {word for word, of in _WORDS.items() if of == group}
    singular = noun.removesuffix("s")
    return {noun, singular, f"{singular}s"}


_OTHERS = re.compile(
    r"\b(?:no|not|without|any|other|of|like|as if|than|for|fake|toy|painted|drawn)\s+(?:\w+\s+)?$"
)
"""In front of a word that names nothing in the picture: no dog, like a dog, for people."""


_NAMED = re.compile(
    r"\b(?:a|an|one|two|three|four|five|six|several|some|many|the|this|that)\s+"
    rf"(?:[a-z-]+\s+){{0,2}}?(?P<noun>{_NOUN})\b"
)


def _find_named(text: str, wanted: set[str]) -> str | None:
    """The first of the wanted words that stands for something in the picture: "a man", "two men",
    "the men are"."""
    for match in _NAMED.finditer(text):
        if match["noun"] in wanted and not _OTHERS.search(text[: match.start()]):
            return match["noun"]
    return None
