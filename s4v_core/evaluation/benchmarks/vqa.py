"""VQAv2 and VizWiz: short answers against those of ten people."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import (
    Answer,
    Benchmark,
    Figure,
    Generation,
    Kind,
    Mark,
    Marked,
    Published,
    Question,
    Source,
    Submission,
)
from s4v_core.evaluation.data_files import (
    find_file,
    read_json,
    read_records,
    require_columns,
)
from s4v_core.evaluation.means import accuracy, accuracy_by, list_units
from s4v_core.evaluation.prompts import ask_short
from s4v_core.evaluation.vqa_words import normalise_upload, score_official, score_upload
from s4v_core.prompts.instructions import SHORT

_UNANSWERABLE = (
    "When the provided information is insufficient, respond with 'Unanswerable'.\n" + SHORT
)


def read_vqav2(data: str) -> list[Question]:
    """Questions, with the answers of the annotations file beside them if there is one.

    Raises:
        InputError: A file is not VQA's, or the two belong to different splits.
    """
    uri = find_file(data, "v2_*_questions.json*", "*questions*.json*")
    asked = read_json(uri)
    if not isinstance(asked, dict) or not isinstance(asked.get("questions"), list):
        raise InputError(uri, "is no file of VQA questions: it has no list `questions`")
    known = _read_annotations(uri)
    questions = [_build_vqav2(row, known.get(row["question_id"])) for row in asked["questions"]]
    lacking = [one.key for one in questions if known and not one.humans]
    if lacking:
        problem = f"has no answers to {len(lacking)} of {len(questions)} questions ({lacking[0]})"
        raise InputError(_name_annotations(uri), f"{problem}; is it of the same split?")
    return questions


def _name_annotations(questions: str) -> str:
    """URI of the annotations beside a file of questions."""
    name = storage.base_name(questions)
    name = name.replace("OpenEnded_", "").replace("questions", "annotations")
    return storage.join(storage.parent(questions), name)


def _read_annotations(questions: str) -> dict[Any, Mapping[str, Any]]:
    uri = _name_annotations(questions)
    if uri == questions or storage.stat(uri) is None:
        return {}
    rows = read_json(uri)
    if not isinstance(rows, dict) or not isinstance(rows.get("annotations"), list):
        raise InputError(uri, "is no file of VQA annotations: it has no list `annotations`")
    return {row["question_id"]: row for row in rows["annotations"]}


def _build_vqav2(row: Mapping[str, Any], known: Mapping[str, Any] | None) -> Question:
    humans = tuple(str(one["answer"]) for one in known["answers"]) if known else ()
    return Question(
        key=str(row["question_id"]),
        prompt=ask_short(row["question"]),
        text=row["question"],
        image=str(row["image_id"]),
        humans=humans,
        labels={"answer type": (known or {}).get("answer_type") or ""},
    )


def read_vizwiz(data: str) -> list[Question]:
    """Questions of val.json or test.json; test.json has no answers.

    Raises:
        InputError: The file is not VizWiz's.
    """
    uri = find_file(data, "val.json", "test.json", "*.jsonl")
    rows = read_records(uri)
    require_columns(uri, rows[0], ("image", "question"), "VizWiz")
    return [_build_vizwiz(number, row) for number, row in enumerate(rows)]


def _build_vizwiz(number: int, row: Mapping[str, Any]) -> Question:
    return Question(
        key=row["image"],
        prompt=f"{row['question']}\n{_UNANSWERABLE}",
        text=row["question"],
        image=row["image"],
        humans=tuple(str(one["answer"]) for one in row.get("answers") or ()),
        labels={"answer type": str(row.get("answer_type") or "")},
        aliases=(str(number), row["image"].rpartition(".")[0]),
    )


def find_vizwiz_keys(answer: Answer) -> tuple[str, ...]:
    """By image, as in an upload; else by number, as in LLaVA's answers."""
    image = answer.row.get("image")
    return (str(image), answer.key) if image else (answer.key,)


def mark(question: Question, reply: str) -> Mark:
    """The official accuracy of the normalised reply; leniently, of its first line without a
    lead-in such as "The answer is"."""
    said, plain = normalise_upload(reply), _cut_lead_in(reply)
    official = score_official(said, question.humans)
    return Mark(
        official=official,
        lenient=official if plain == reply else score_upload(plain, question.humans),
        is_parsed=bool(said),
        said=said,
    )


def _cut_lead_in(reply: str) -> str:
    line = next(iter(reply.strip().splitlines()), "")
    for lead in ("the answer is:", "the answer is", "answer:", "it is", "it's"):
        if line.lower().startswith(lead):
            return line[len(lead) :].strip()
    return line


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Accuracy over all, and by type of answer."""
    return {"accuracy": accuracy(marked, kind), **accuracy_by(marked, kind, "answer type")}


def _build_upload(marked: Sequence[Marked], name: str) -> bytes:
    """Every question of the split; one without an answer has the empty one."""
    rows = [
        {
            name: int(one.question.key) if name == "question_id" else one.question.key,
            "answer": normalise_upload(one.text) if one.text else "",
        }
        for one in marked
    ]
    return json.dumps(rows, ensure_ascii=False).encode()


def name_vqav2_images(question: Question) -> list[str]:
    """COCO's file of the image, of whatever split: a number belongs to one split alone."""
    number = question.image.zfill(12)
    splits = ("test2015", "val2014", "train2014")
    return [f"{split}/COCO_{split}_{number}.jpg" for split in splits]


VQAV2 = Benchmark(
    name="vqav2",
    title="VQAv2",
    source=Source(
        origin="visualqa.org",
        licence="CC BY 4.0; images: COCO, Flickr's terms",
        files="v2_OpenEnded_mscoco_*_questions.json, v2_mscoco_*_annotations.json",
        sizes=(107_394, 214_354, 447_793, 443_757),
    ),
    generation=Generation(max_tokens=128, image_mode="pad"),
    scorer="vqaEval.py after EvalAIAnswerProcessor",
    read=read_vqav2,
    mark=mark,
    figures=figures,
    units=list_units,
    published={"accuracy": Published(80.6, 81.0, 80.0)},
    folders=("VQAv2", "vqa"),
    name_images=name_vqav2_images,
    submission=Submission("vqav2_upload.json", lambda marked: _build_upload(marked, "question_id")),
)
VIZWIZ = Benchmark(
    name="vizwiz",
    title="VizWiz",
    source=Source(
        origin="vizwiz.org/tasks-and-datasets/vqa",
        licence="CC BY 4.0",
        files="val.json or test.json",
        sizes=(4319, 8000),
    ),
    generation=Generation(max_tokens=128, image_mode="pad"),
    scorer="vqaEval.py after EvalAIAnswerProcessor, any number of people",
    read=read_vizwiz,
    mark=mark,
    figures=figures,
    units=list_units,
    find_keys=find_vizwiz_keys,
    published={"accuracy": Published(57.2, 55.6, 53.6)},
    folders=("VizWiz",),
    name_images=lambda question: (
        *(f"{folder}/{question.image}" for folder in ("val", "test", "images")),
        question.image,
    ),
    submission=Submission("vizwiz_upload.json", lambda marked: _build_upload(marked, "image")),
)
