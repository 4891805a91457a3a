"""Strict parsers of what writers answer: a result, or the name of what is wrong with the text.

The first lines of a dialogue must repeat the prompts letter by letter. A writer that changed the
prompt has described another image.
"""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

LONGEST_PROMPT, LONGEST_ANSWER, LONGEST_TEXT = 600, 1000, 8000
"""Characters; the longest prompt of the released data has 400, and its longest answer 500."""

_FEWEST_KEYWORDS = 2
_LEAST_LATIN = 0.9
"""Share of a text's letters that are Latin; templates, keywords and examples are English."""

_LABEL = re.compile(r"^(prompt|description|question|response|answer)\s*:\s*", re.IGNORECASE)
_PAIR = re.compile(r"\(\(([^()]+)\)\)")
_REFUSAL = re.compile(
    r"\b(as an ai( language)? model|i('m| am) (sorry|unable|not able)"
    r"|i (cannot|can't|can not|won't)|i apologi[sz]e"
    r"|unable to (assist|help|comply)|against my (guidelines|policy))\b",
    re.IGNORECASE,
)
_FOREIGN_WORDS = """
    der die das und ist ein eine einen einem nicht mit auf le les des une est dans avec sur el los
    las una con por para il lo gli che di della sono een het van niet uma não com
    """
_FOREIGN_FUNCTION_WORDS = frozenset(_FOREIGN_WORDS.split())
_MOST_FOREIGN = 0.2


@dataclass(frozen=True, slots=True)
class Written:
    """The parts of a text that was accepted. Which are empty depends on what was asked for."""

    prompts: tuple[str, ...]
    question: str = ""
    answer: str = ""


def parse_prompts(text: str, images: int, shown: Sequence[str] = ()) -> Written | str:
    """The image prompts in an answer to T1, or the reason why it has none.

    Args:
        images: Prompts that were asked for.
        shown: Prompts that the writer was shown as examples; a copy of one is no answer.
    """
    problem = _find_problem(text)
    if problem:
        return problem
    lines = [_LABEL.sub("", line) for line in _split_lines(text)]
    if len(lines) != images:
        return "wrong_number_of_lines"
    for line in lines:
        if problem := find_prompt_problem(line):
            return problem
    copies = {" ".join(one.casefold().split()) for one in shown}
    if all(" ".join(line.casefold().split()) in copies for line in lines):
        return "copied_example"
    if len(set(lines)) < len(lines):
        return "repeated_prompt"
    return Written(tuple(lines))


def parse_description(text: str, prompts: Sequence[str]) -> Written | str:
    """The answer of a dialogue in an answer to T2, or the reason why there is none."""
    found = _parse_after_prompts(text, prompts, 1)
    return found if isinstance(found, str) else Written(tuple(prompts), answer=found[0])


def parse_question(text: str, prompts: Sequence[str]) -> Written | str:
    """Question and answer in an answer to T3, or the reason why there are none."""
    found = _parse_after_prompts(text, prompts, 2)
    if isinstance(found, str):
        return found
    question, answer = found
    if not question.endswith("?"):
        return "no_question"
    return Written(tuple(prompts), question, answer)


def find_prompt_problem(prompt: str) -> str | None:
    """Find what is wrong with an image prompt: it must be keywords with commas between, one pair of
    double brackets in front, and no other bracket."""
    if len(prompt) > LONGEST_PROMPT:
        return "too_long"
    if "((" not in prompt and "))" not in prompt:
        return "no_pair"
    pairs = _PAIR.findall(prompt)
    if len(pairs) > 1:
        return "several_pairs"
    rest = _PAIR.sub("", prompt)
    if not pairs or not pairs[0].strip() or re.search(r"[()\[\]{}]", rest):
        return "broken_brackets"
    if not prompt.startswith("(("):
        return "pair_not_first"
    keywords = [one.strip() for one in prompt.split(",")]
    if len(keywords) < _FEWEST_KEYWORDS or not all(keywords):
        return "not_keywords"
    return None


def find_pair(prompt: str) -> str:
    """The words in the double brackets; empty without any."""
    found = _PAIR.search(prompt)
    return found[1].strip() if found else ""


def strip_brackets(prompt: str) -> str:
    """A prompt without its brackets."""
    return _PAIR.sub(lambda found: found[1], prompt)


def _parse_after_prompts(
    text: str, prompts: Sequence[str], lines_after: int
) -> tuple[str, ...] | str:
    problem = _find_problem(text)
    if problem:
        return problem
    lines = [_LABEL.sub("", line) for line in _split_lines(text)]
    if tuple(lines[: len(prompts)]) != tuple(prompts):
        return "prompt_changed"
    rest = lines[len(prompts) :]
    if len(rest) != lines_after:
        return "wrong_number_of_lines"
    if any(re.search(r"\(\(|\)\)", line) for line in rest):
        return "brackets_in_answer"
    if any(len(line) > LONGEST_ANSWER for line in rest):
        return "too_long"
    if any(not re.search(r"[^\W\d_]", line) for line in rest):
        return "empty"
    if any(_is_other_language(line) for line in rest):  # the prompt's words must not hide it
        return "other_language"
    return tuple(rest)


def _find_problem(text: str) -> str | None:
    """Find what is wrong with a text of any kind."""
    if len(text) > LONGEST_TEXT:
        return "too_long"
    if not text.strip():
        return "empty"
    if _REFUSAL.search(text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        return "refusal"
    if any(unicodedata.category(one) in ("Cc", "Co", "Cn") and one not in "\t\r\n" for one in text):
        return "control_characters"
    return "other_language" if _is_other_language(text) else None


def _is_other_language(text: str) -> bool:
    letters = [one for one in text if one.isalpha()]
    latin = sum("LATIN" in unicodedata.name(one, "") for one in letters)
    if letters and latin < _LEAST_LATIN * len(letters):
        return True
    words = re.findall(r"[^\W\d_]+", text.casefold())
    foreign = sum(word in _FOREIGN_FUNCTION_WORDS for word in words)
    return len(words) >= 5 and foreign > _MOST_FOREIGN * len(words)


def _split_lines(text: str) -> list[str]:
    return [line.strip() for line in re.split(r"\r\n|\r|\n", text) if line.strip()]
