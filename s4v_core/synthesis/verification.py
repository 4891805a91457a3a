"""People say which questions of a benchmark are right, and what is wrong with the others.

Their votes lie in a database on one machine; the marks that follow from them lie beside the
questions, where the stages benchmark and records read them. Votes are about a question's text: one
that a stage writes anew under the same name is not theirs.
"""

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from s4v_core import storage
from s4v_core.annotation.agreement import find_fleiss_kappa, find_majority
from s4v_core.annotation.questions import Choice, Item, Question, Shown
from s4v_core.annotation.vote_store import Vote, VoteStore, create_votes, find_votes, has_votes
from s4v_core.errors import InputError
from s4v_core.runs.identity import refuse_other_settings
from s4v_core.terminal import printable

QUESTIONS, IMAGES, MARKS = "keywords.jsonl", "images", "verification.json"
"""Files and folders of a benchmark that a synthesis made."""

RIGHT, WRONG_QUESTION, WRONG_IMAGE = "right", "wrong_question", "wrong_image"
UNDECIDED = "undecided"
"""As many people find the question right as find it wrong."""

REFUSED = frozenset([WRONG_QUESTION, WRONG_IMAGE])
_MARK_NAMES = (RIGHT, WRONG_QUESTION, WRONG_IMAGE, UNDECIDED)


class Verification(Question):
    """Whether a question, its answer and its image fit each other.

    Args:
        folder: Folder of the benchmark.
    """

    title = "Is this a right question about the image?"
    instruction = (
        "Look at the image. Is the question clear, is its answer true of this image, and would a "
        "right answer contain these words? If the image does not show what is asked about, say "
        "so: its record is then left out too."
    )
    choices = (
        Choice(RIGHT, "Right", ("1", "y")),
        Choice(WRONG_QUESTION, "Question or answer is wrong", ("2", "n")),
        Choice(WRONG_IMAGE, "Image does not show it", ("3", "i")),
    )

    def __init__(self, folder: str) -> None:
        self._folder = folder

    def show(self, item: Item, rater: str) -> Shown:
        alternatives = (" and ".join(several) for several in item.about["keywords"])
        texts = (
            ("Question", item.about["question"]),
            ("Answer", item.about["answer"]),
            ("A right answer names", " or ".join(alternatives)),
        )
        return Shown(1, texts)

    def read_image(self, item: Item, number: int) -> bytes | str:
        uri = storage.join(self._folder, IMAGES, item.about["image"])
        return "not_found" if number or storage.stat(uri) is None else storage.read(uri)


def open_votes(folder: str, votes: str) -> VoteStore:
    """Open the votes about a benchmark; the first call makes their file.

    Args:
        folder: Folder of the benchmark.
        votes: Folder of the votes, on this machine.

    Raises:
        ConfigError: The votes lie in a store, or are about another benchmark.
        InputError: There is no benchmark.
        StorageError: The file cannot be written.
    """
    path = find_votes("votes", votes)
    settings = {"benchmark": storage.absolute(folder)}
    if not has_votes(path):
        create_votes(path, settings, read_items(folder))
    store = VoteStore(path)
    refuse_other_settings(votes, store.settings, settings)
    return store


def read_items(folder: str) -> list[Item]:
    """The questions of a benchmark.

    Raises:
        InputError: There are none.
    """
    uri = storage.join(folder, QUESTIONS)
    if storage.stat(uri) is None:
        raise InputError(uri, "there is no such file; run the stage benchmark first")
    rows = list(map(json.loads, storage.read(uri).decode().splitlines()))
    if not rows:
        raise InputError(
            uri, "holds no questions; run the stage benchmark without --verified-only first"
        )
    return [make_item(row) for row in rows]


def make_item(row: Mapping[str, Any]) -> Item:
    names = ("ability", "image", "question", "answer", "keywords")
    return Item(row["question_id"], {name: row[name] for name in names})


def find_marks(items: Sequence[Item], votes: Sequence[Vote]) -> dict[str, str]:
    """The mark of each question that anybody voted on, by the question's name.

    More people decide: for right against wrong, and then for what is wrong. If as many blame the
    image as the question, only the question is refused.
    """
    by_item: dict[int, list[str]] = {}
    for vote in votes:
        by_item.setdefault(vote.item, []).append(vote.answer)
    return {items[number].item_id: _decide(answers) for number, answers in sorted(by_item.items())}


def _decide(answers: Sequence[str]) -> str:
    wrong = [answer for answer in answers if answer != RIGHT]
    right = len(answers) - len(wrong)
    if right == len(wrong):
        return UNDECIDED
    return RIGHT if right > len(wrong) else find_majority(wrong) or WRONG_QUESTION


def write_marks(folder: str, store: VoteStore) -> str:
    """Write what follows from the votes so far beside the questions; returns it for people."""
    votes = store.read_votes()
    marks = find_marks(store.items, votes)
    ratings: dict[int, dict[str, str]] = {}
    for vote in votes:
        ratings.setdefault(vote.item, {})[vote.rater] = vote.answer
    figures = {
        "questions": len(store.items),
        "votes": len(votes),
        "raters": dict(Counter(vote.rater for vote in votes).most_common()),
        "marks": dict(Counter(marks.values())),
        "fleiss_kappa": find_fleiss_kappa(ratings),
        "by_question": marks,
    }
    storage.replace_json(storage.join(folder, MARKS), figures)
    return _show_figures(figures)


def read_marks(folder: str) -> dict[str, str]:
    """The marks of a benchmark by question; none if nobody has looked at it."""
    uri = storage.join(folder, MARKS)
    if storage.stat(uri) is None:
        return {}
    try:
        marks: dict[str, str] = json.loads(storage.read(uri))["by_question"]
    except (ValueError, KeyError, TypeError):
        raise InputError(uri, "is no file of marks; verify.py --results writes it again") from None
    return marks


def _show_figures(figures: Mapping[str, Any]) -> str:
    counts, kappa = figures["marks"], figures["fleiss_kappa"]
    seen = sum(counts.values())
    parts = [f"{name} {counts[name]:,}" for name in _MARK_NAMES if name in counts]
    lines = [
        f"{figures['votes']:,} votes of {len(figures['raters'])} raters on {seen:,} of "
        f"{figures['questions']:,} questions" + (f": {', '.join(parts)}" if parts else "")
    ]
    if kappa is not None:
        lines.append(f"agreement: Fleiss' kappa {kappa:.3f}")
    lines += [f"  {printable(name)}: {count:,} votes" for name, count in figures["raters"].items()]
    return "\n".join(lines)
