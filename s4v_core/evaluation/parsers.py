"""Reads the answer from a reply: yes or no, or a letter; by official rules, bug for bug, and by a
lenient one.

Every parser takes any text and returns the answer or None; none of them raises.
"""

import re
from collections.abc import Collection, Mapping

_FORMATTING = re.compile(r"[*_`#]+")
_ANSWER_IS = re.compile(
    r"(?i:answer|option|choice|答案)\s*(?:(?i:is)|:|：|是)\s*[:：]?\s*\(?\s*"  # noqa: RUF001 - Chinese
    r"(?:([A-Z])(?![\w'’])|([a-z])(?=\s*\)?\s*$))"  # noqa: RUF001 - "answer is a cat" names no letter
)
_AT_START = re.compile(r"\(\s*([A-Z])\s*\)|([A-Z])\s*[.):、：](?!\w\.)", re.I)  # noqa: RUF001 - Chinese
_LONE_LETTER = re.compile(r"(?<![\w'’])([A-Z])(?![\w'’])")  # noqa: RUF001 - a typographic apostrophe
_TWO_LETTERS = re.compile(r"\(?([A-Z])\)?\s*(?:,|/|&|or|and)\s*\(?([A-Z])\)?(?!\w)")
_SQA_ANSWER = re.compile(r"The answer is ([A-Z]).")


def parse_mme(reply: str) -> str | None:
    """Yes or no as MME's calculation.py reads it: the word, else the first four characters."""
    text = reply.strip().lower()
    if text in ("yes", "no"):
        return text
    start = text[:4]
    return "yes" if "yes" in start else "no" if "no" in start else None


def parse_yes_no(reply: str) -> str | None:
    """Yes or no, if exactly one of the two words stands anywhere in the reply."""
    words = set(re.findall(r"[^\W\d_]+", reply.lower()))
    has_yes, has_no = "yes" in words, "no" in words
    return None if has_yes == has_no else "yes" if has_yes else "no"


def parse_pope(reply: str) -> str:
    """Yes or no as POPE's evaluate.py reads it: no in the first sentence, else yes."""
    words = reply.partition(".")[0].replace(",", "").split(" ")
    return "no" if {"No", "not", "no"} & set(words) else "yes"


def parse_seed(reply: str) -> str:
    """The reply itself, as LLaVA's conversion for SEED-Bench compares it with the letter."""
    return reply


def parse_seed_first(reply: str) -> str | None:
    """The first character, as that conversion's option -t takes it; None of an empty reply, on
    which the original crashes."""
    return reply[:1] if reply[:1] in tuple("ABCD") else None


def parse_science_qa(reply: str, letters: Collection[str] = "ABCDE") -> str | None:
    """The letter as eval_science_qa.py reads it. One beyond the question's choices is none."""
    if reply in tuple("ABCDE"):
        found = reply
    elif len(reply) >= 3 and reply[0] in "ABCDE" and reply[1:3] == ". ":
        found = reply[0]
    else:
        matches = _SQA_ANSWER.findall(reply)
        found = matches[0] if len(matches) == 1 else ""
    return found if found and found in tuple(letters) else None


def parse_mmstar(reply: str) -> str | None:
    """The letter as MMStar's evaluation compares it: first character, (A, option A, the answer is
    A."""
    text = reply.lower().strip().replace("\n", " ")
    places = [0]
    places += [1] if text[:1] == "(" else []
    places += [7] if text[:7] == "option " else []
    places += [14] if text[:14] == "the answer is " else []
    for place in reversed(places):  # a longer form wins; the original tries each against the gold
        if text[place : place + 1].isalpha():
            return text[place].upper()
    return None


def parse_letter(reply: str, options: Mapping[str, str]) -> str | None:
    """The letter that a reply chooses, by this project's lenient rule.

    A lone letter, one at the start, or "answer is X"; else the one option whose text occurs in
    whole words. Two different letters, or one that the question has not, is no answer.
    """
    text = _FORMATTING.sub("", reply[:4_000]).strip().rstrip(".。").strip()
    if len(text) == 1:
        return _allow(text.upper(), options)
    named = _find_named(text, options)
    if named:
        return _allow(named.pop(), options) if len(named) == 1 else None
    by_text = _find_by_text(text, options)
    if by_text is not None:
        return by_text
    lone = set(_LONE_LETTER.findall(text)) & options.keys()
    # "A" and "I" are words as well as letters.
    return lone.pop() if len(lone) == 1 and re.match(r"[B-HJ-Z]\b", text) else None


def _find_named(text: str, options: Mapping[str, str]) -> set[str]:
    """The letters that a reply names as its answer."""
    named = {
        (match[1] or match[2]).upper()
        for match in _ANSWER_IS.finditer(text)
        if not _begins_option(text[match.end() :], options)
    }
    start = _AT_START.match(text)
    if start:
        named.add((start[1] or start[2]).upper())
    both = _TWO_LETTERS.match(text)
    return named | ({both[1], both[2]} if both else set())


def _begins_option(rest: str, options: Mapping[str, str]) -> bool:
    """Whether the letter before `rest` is the article of an option: "answer is A cat"."""
    words = _fold(rest).split()
    texts = [re.sub(r"^(?:an?|the) ", "", _fold(one)).split() for one in options.values()]
    return bool(words) and any(text[:1] == words[:1] for text in texts)


def _find_by_text(text: str, options: Mapping[str, str]) -> str | None:
    """The one option whose text stands in the reply; the longest, if one contains the others."""
    reply = _fold(text)
    held = {letter: _fold(option) for letter, option in options.items()}
    found = [one for one, option in held.items() if option and f" {option} " in f" {reply} "]
    longest = max(found, key=lambda one: len(held[one]), default=None)
    if longest is None or any(held[one] not in held[longest] for one in found):
        return None
    same = [one for one in found if held[one] == held[longest]]
    return longest if len(same) == 1 else None


def _fold(text: str) -> str:
    return " ".join(re.findall(r"\w+", text.casefold()))


def _allow(letter: str, options: Mapping[str, str]) -> str | None:
    return letter if letter in options else None
