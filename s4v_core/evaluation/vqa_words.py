"""Short answers as VQA compares them: the normalisers, and the accuracy against ten people."""

import functools
import re
from collections.abc import Sequence

_NUMBERS = {"none": "0", "zero": "0", "one": "1", "two": "2", "three": "3", "four": "4"}
_NUMBERS |= {"five": "5", "six": "6", "seven": "7", "eight": "8", "nine": "9", "ten": "10"}
_ARTICLES = frozenset({"a", "an", "the"})
_PUNCTUATION = (*';/[]"{}()=+\\_-><@`,?!',)
_COMMA_IN_NUMBER = re.compile(r"\d,\d")
_COMMAS_IN_NUMBER = re.compile(r"(?<=\d),+(?=\d)")
_PERIOD = re.compile(r"(?!<=\d)(\.)(?!\d)")
"""The lookbehind is misspelt in the original: a period goes unless a digit follows."""
_PERIODS_REMOVED = int(re.UNICODE)
"""The original passes a flag where the number of replacements belongs."""

_ENCLITICS = """
    ain't aren't can't could've couldn't didn't doesn't don't hadn't hasn't haven't he'd he's how'd
    how'll how's isn't it'd it'll ma'am mightn't might've mustn't must've needn't not've o'clock
    oughtn't shan't should've shouldn't somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're
    there's they'd they'd've they'll they're they've 'twas wasn't we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't y'all y'all'll y'all'd've you'd you'd've you'll you're you've
    couldn't've hadn't've he'd've it'd've mightn't've she'd've shouldn't've we'd've wouldn't've
    """


def _spell_contractions() -> dict[str, str]:
    """Right spellings by wrong ones, which lack one of their apostrophes."""
    table = {"somebody'd": "somebodyd"}  # as in the original
    table |= {wrong: "'ow's'at" for wrong in ("ow's'at", "'ows'at", "'ow'sat")}
    for right in _ENCLITICS.split():
        for place, sign in enumerate(right):
            if sign == "'":
                table[right[:place] + right[place + 1 :]] = right
    return table


_CONTRACTIONS = _spell_contractions()


@functools.lru_cache(maxsize=1 << 16)  # people's answers repeat each other
def normalise_punctuation(text: str) -> str:
    """Punctuation as VQA's evaluation removes it: by a blank, or by nothing beside a blank or in
    a text with a number such as 1,000."""
    return _strip_punctuation(text, _COMMA_IN_NUMBER)


def normalise_words(text: str) -> str:
    """Lower case, number words as digits, no articles, contractions with their apostrophe."""
    words = [_NUMBERS.get(word, word) for word in text.lower().split()]
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def normalise_upload(text: str) -> str:
    """An answer as LLaVA's scripts normalise it before they upload it (EvalAIAnswerProcessor)."""
    word = text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip()
    word = word.replace("\n", " ").replace("\t", " ").strip()
    return normalise_words(_strip_punctuation(word, _COMMAS_IN_NUMBER))


def _strip_punctuation(text: str, comma: re.Pattern[str]) -> str:
    has_number, left = comma.search(text) is not None, text
    for sign in _PUNCTUATION:
        if sign in text:
            is_beside_blank = sign + " " in text or " " + sign in text
            left = left.replace(sign, "" if is_beside_blank or has_number else " ")
    return _PERIOD.sub("", left, count=_PERIODS_REMOVED)


def leave_one_out(answer: str, humans: Sequence[str]) -> float:
    """Mean over the people of min(1, agreement among the others / 3), whatever their number."""
    if not humans:
        return 0.0
    matches = humans.count(answer)
    # A person who agrees is one of the matches that the others then lack.
    agreeing, others = min(1.0, (matches - 1) / 3), min(1.0, matches / 3)
    return (matches * agreeing + (len(humans) - matches) * others) / len(humans)


def score_official(answer: str, humans: Sequence[str]) -> float:
    """The accuracy of vqaEval.py: nothing is normalised where all people agree."""
    answer = answer.replace("\n", " ").replace("\t", " ").strip()
    people = [one.replace("\n", " ").replace("\t", " ").strip() for one in humans]
    if len(set(people)) > 1:
        people = [normalise_punctuation(one) for one in people]
        answer = normalise_words(normalise_punctuation(answer))
    return leave_one_out(answer, people)


def score_upload(answer: str, humans: Sequence[str]) -> float:
    """The accuracy of an answer as LLaVA's scripts upload it."""
    return score_official(normalise_upload(answer), humans)
