"""MM-Vet's judge: its prompt as mm-vet_evaluator.py builds it, and the grade in a reply.

The examples are those of MM-Vet's evaluator: another wording moves the score.
"""

from collections.abc import Mapping, Sequence

from s4v_core.evaluation.benchmark import Attempt, Judging, Question
from s4v_core.evaluation.numbers import read_number

_TASK = (
    "Compare the ground truth and prediction from AI models, to give a correctness score for the "
    "prediction. <AND> in the ground truth means it is totally right only when all elements in the "
    "ground truth are present in the prediction, and <OR> means it is totally right when any one "
    "element in the ground truth is present in the prediction. The correctness score is 0.0 "
    "(totally wrong), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, or 1.0 (totally right). Just "
    "complete the last space of the correctness score."
)
_EQUATION = "What is x in the equation? | -1 <AND> -5"
_MEME = (
    "Can you explain this meme? | This meme is poking fun at the fact that the names of the "
    "countries Iceland and Greenland are misleading. Despite its name, Iceland is known for its "
    "beautiful green landscapes, while Greenland is mostly covered in ice and snow. The meme is "
    "saying that the person has trust issues because the names of these countries do not "
    "accurately represent their landscapes."
)
_TABLE = (
    "Question | Ground truth | Prediction | Correctness",
    "--- | --- | --- | ---",
    f"{_EQUATION} | x = 3 | 0.0",
    f"{_EQUATION} | x = -1 | 0.5",
    f"{_EQUATION} | x = -5 | 0.5",
    f"{_EQUATION} | x = -5 or 5 | 0.5",
    f"{_EQUATION} | x = -1 or x = -5 | 1.0",
    f"{_MEME} | The meme talks about Iceland and Greenland. It's pointing out that despite their "
    "names, Iceland is not very icy and Greenland isn't very green. | 0.4",
    f"{_MEME} | The meme is using humor to point out the misleading nature of Iceland's and "
    "Greenland's names. Iceland, despite its name, has lush green landscapes while Greenland is "
    "mostly covered in ice and snow. The text 'This is why I have trust issues' is a playful way "
    "to suggest that these contradictions can lead to distrust or confusion. The humor in this "
    "meme is derived from the unexpected contrast between the names of the countries and their "
    "actual physical characteristics. | 1.0",
)
_PROMPT = "\n".join([_TASK, "", *_TABLE, ""])
_AGAIN = "\nPredict the correctness of the answer (digit): "


def build_prompts(
    data: str, questions: Sequence[Question], answers: Mapping[str, str]
) -> dict[str, str]:
    """The judge's prompt for each answered question."""
    return {
        one.key: _build_prompt(one, answers[one.key]) for one in questions if one.key in answers
    }


def _build_prompt(question: Question, answer: str) -> str:
    truth = str(question.gold).replace("<AND>", " <AND> ").replace("<OR>", " <OR> ")
    return _PROMPT + "\n" + " | ".join([question.text, truth, answer, ""])


def parse_grade(reply: str) -> tuple[float] | None:
    """The number before the first blank, if it is one from 0 to 1."""
    grade = read_number(reply.split(" ")[0])
    return (grade,) if grade is not None and 0 <= grade <= 1 else None


JUDGING = Judging(
    build_prompts=build_prompts,
    parse=parse_grade,
    # The original raises the temperature after the second reply, and drops the sixth unread.
    attempts=(
        Attempt(0.0),
        Attempt(0.0, _AGAIN),
        Attempt(0.5, _AGAIN),
        Attempt(1.0, _AGAIN),
        Attempt(1.5, _AGAIN),
    ),
    max_tokens=3,
)
