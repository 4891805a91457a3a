"""LLaVA-Bench's judge: its prompt as eval_gpt_review_bench.py builds it, and how a review is read.

The texts are those of LLaVA's repository (Apache-2.0, llava/eval): another wording moves the score.
"""

from collections.abc import Mapping, Sequence

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import Attempt, Judging, Question
from s4v_core.evaluation.data_files import find_file, read_records, require_columns
from s4v_core.evaluation.numbers import read_number

_SYSTEM = "You are a helpful and precise assistant for checking the quality of the answer."
_RULE = (
    "We would like to request your feedback on the performance of two AI assistants in response to "
    "the user question displayed above. The user asks the question on observing an image. For your "
    "reference, the visual content in the image is represented with a few sentences describing the "
    "image. \nPlease rate the helpfulness, relevance, accuracy, level of details of their "
    "responses. Each assistant receives an overall score on a scale of 1 to 10, where a higher "
    "score indicates better overall performance.\nPlease first output a single line containing "
    "only two values indicating the scores for Assistant 1 and 2, respectively. The two scores are "
    "separated by a space.\nIn the subsequent line, please provide a comprehensive explanation of "
    "your evaluation, avoiding any potential bias and ensuring that the order in which the "
    "responses were presented does not affect your judgment."
)
_TRIES = 4
"""Reviews that are asked for until one has grades; the original asks for one."""


def build_prompts(
    data: str, questions: Sequence[Question], answers: Mapping[str, str]
) -> dict[str, str]:
    """The judge's prompt for each answered question.

    Raises:
        InputError: The descriptions of the images or the reference answers are missing.
    """
    folder = data if storage.stat(data) is None else storage.parent(data)
    contexts = _read_texts(folder, "context.jsonl", "image", "caption")
    references = _read_texts(folder, "answers_gpt4.jsonl", "question_id", "text")
    found = {}
    for question in questions:
        if question.key not in answers:
            continue
        needed = ((contexts, question.image), (references, question.key))
        for texts, key in needed:
            if key not in texts:
                raise InputError(
                    folder, f"has no text for {key}, which question {question.key} needs"
                )
        found[question.key] = _build_prompt(
            contexts[question.image], question, references[question.key], answers[question.key]
        )
    return found


def _read_texts(folder: str, name: str, key: str, value: str) -> dict[str, str]:
    uri = find_file(folder, name)
    rows = read_records(uri)
    for row in rows:
        require_columns(uri, row, (key, value), "LLaVA-Bench")
    # The original joins the caption by line breaks, whether it is a list or, as released, a text.
    return {
        str(row[key]): "\n".join(row[value]) if value == "caption" else str(row[value])
        for row in rows
    }


def _build_prompt(context: str, question: Question, reference: str, answer: str) -> str:
    return (
        f"[Context]\n{context}\n\n"
        f"[Question]\n{question.text}\n\n"
        f"[Assistant 1]\n{reference}\n\n[End of Assistant 1]\n\n"
        f"[Assistant 2]\n{answer}\n\n[End of Assistant 2]\n\n"
        f"[System]\n{_RULE}\n\n"
    )


def parse_grades(review: str) -> tuple[float, float] | None:
    """The two numbers of a review's first line, as the original reads them: commas are blanks, and
    exactly one blank stands between the numbers."""
    parts = review.split("\n")[0].replace(",", " ").split(" ")
    grades = [read_number(part) for part in parts]
    if len(grades) != 2 or grades[0] is None or grades[1] is None:
        return None
    return grades[0], grades[1]


JUDGING = Judging(
    build_prompts=build_prompts,
    parse=parse_grades,
    attempts=(Attempt(0.2),) * _TRIES,
    max_tokens=1024,
    system=_SYSTEM,
)
