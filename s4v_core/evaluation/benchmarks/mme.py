"""MME: 14 tasks of paired yes/no questions; perception is 10 of them, cognition 4."""

import re
from collections.abc import Iterator, Sequence

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
    Unit,
)
from s4v_core.evaluation.data_files import read_text
from s4v_core.evaluation.means import group_up, split_by
from s4v_core.evaluation.parsers import parse_mme, parse_yes_no
from s4v_core.evaluation.prompts import ask_short
from s4v_core.prompts.instructions import SHORT

PERCEPTION = (
    *("existence", "count", "position", "color", "posters"),
    *("celebrity", "scene", "landmark", "artwork", "OCR"),
)
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")
_INSTRUCTION = re.compile(r"\s*Please answer yes or no\s*\.?\s*$", re.IGNORECASE)


def strip_instruction(question: str) -> str:
    """A question without MME's own instruction and LLaVA's, blanks made single."""
    text = question.strip().removesuffix(SHORT)
    return " ".join(_INSTRUCTION.sub("", text).split())


def read(data: str) -> list[Question]:
    """Questions from the released folders, or from the .txt files of the evaluation tool.

    Raises:
        InputError: No task is found, or a file is not MME's.
    """
    if not storage.is_folder(data):
        raise InputError(data, "no such folder; MME's --data is the folder that holds its tasks")
    questions: list[Question] = []
    for file in storage.list_files(data):
        parts = file.uri.split("/")
        stem, _, ending = parts[-1].rpartition(".")
        if ending != "txt":
            continue
        folder = next((one for one in reversed(parts[:-1]) if one in PERCEPTION + COGNITION), "")
        if stem in PERCEPTION + COGNITION:
            questions += _read_tool_file(file.uri, stem)
        elif folder:
            questions += _read_image_file(file.uri, folder, stem)
    if not questions:
        raise InputError(data, f"found no .txt files of MME's tasks ({', '.join(PERCEPTION)}, ...)")
    return questions


def _read_tool_file(uri: str, task: str) -> Iterator[Question]:
    for number, line in enumerate(read_text(uri).splitlines(), 1):
        if line.strip():
            image, *rest = line.split("\t")
            yield _build(uri, number, task, image.rpartition(".")[0] or image, rest, image)


def _read_image_file(uri: str, task: str, stem: str) -> Iterator[Question]:
    for number, line in enumerate(read_text(uri).splitlines(), 1):
        if line.strip():
            yield _build(uri, number, task, stem, line.split("\t"), stem)


def _build(
    uri: str, number: int, task: str, stem: str, fields: Sequence[str], image: str
) -> Question:
    gold = fields[1].strip().lower() if len(fields) == 2 else ""
    if gold not in ("yes", "no"):
        raise InputError(uri, f"line {number}: expected a question, a tab and Yes or No")
    text = strip_instruction(fields[0])
    return Question(
        key=f"{task}/{stem}: {text}",
        prompt=ask_short(text),
        text=text,
        image=f"{task}/{image}",
        gold=gold,
        group=f"{task}/{stem}",
        labels={"task": task},
    )


def find_keys(answer: Answer) -> tuple[str, ...]:
    """`artwork/images/1.jpg` and the prompt are the question `artwork/1: ...`."""
    parts = answer.key.split("/")
    stem = parts[-1].rpartition(".")[0] or parts[-1]
    return (f"{parts[0]}/{stem}: {strip_instruction(answer.prompt)}",)


def mark(question: Question, reply: str) -> Mark:
    said, lenient = parse_mme(reply), parse_yes_no(reply)
    return Mark(
        official=float(said == question.gold),
        lenient=float(lenient == question.gold),
        is_parsed=lenient is not None,
        said=said,
    )


def units(marked: Sequence[Marked]) -> dict[str, list[Unit]]:
    """Each image with its credit: the share of its questions that are right, and one more if all
    are."""
    found: dict[str, list[Unit]] = {"perception": [], "cognition": []}
    for key, group in group_up(marked).items():
        credits = [one.mark.official for one in group]
        credit = sum(credits) / len(credits) + float(all(credits))
        task = group[0].question.labels["task"]
        found["perception" if task in PERCEPTION else "cognition"].append(
            Unit(key, credit, 1.0, task)
        )
    return {name: several for name, several in found.items() if several}


def figures(marked: Sequence[Marked], kind: Kind) -> dict[str, Figure]:
    """Perception (at most 2,000), cognition (800), and each task (200): 100 * accuracy +
    100 * accuracy of images with both questions right."""
    tasks = {}
    for task, part in split_by(marked, lambda one: one.question.labels["task"]).items():
        right = sum(one.mark.credit(kind) for one in part) / len(part)
        images = group_up(part).values()
        plus = sum(all(one.mark.credit(kind) for one in image) for image in images) / len(images)
        tasks[task] = Figure(100 * right + 100 * plus, len(part))
    return {
        "perception": _sum_up(tasks, PERCEPTION),
        "cognition": _sum_up(tasks, COGNITION),
        **{task: tasks[task] for task in PERCEPTION + COGNITION if task in tasks},
    }


def _sum_up(tasks: dict[str, Figure], names: Sequence[str]) -> Figure:
    found = [tasks[name] for name in names if name in tasks]
    return Figure(sum(one.value for one in found), sum(one.n for one in found))


def name_images(question: Question) -> list[str]:
    """The image of `artwork/1` or `count/0001.jpg`, beside its questions or in images/."""
    task, _, name = question.image.partition("/")
    names = [name] if name.endswith((".jpg", ".png")) else [f"{name}.jpg", f"{name}.png"]
    return [f"{folder}/{one}" for one in names for folder in (task, f"{task}/images")]


MME = Benchmark(
    name="mme",
    title="MME",
    source=Source(
        origin="github.com/BradyFU/Awesome-Multimodal-Large-Language-Models, branch Evaluation",
        licence="none stated; for academic use, on request",
        files="MME_Benchmark_release_version/<task>/, or the tool's <task>.txt",
        sizes=(2374,),
    ),
    generation=Generation(max_tokens=128, image_mode="pad"),
    scorer="MME calculation.py",
    read=read,
    mark=mark,
    figures=figures,
    units=units,
    find_keys=find_keys,
    folders=("MME", "MME_Benchmark_release_version", "MME/MME_Benchmark_release_version"),
    name_images=name_images,
    published={
        "perception": Published(1567.4, 1618.7, 1531.3),
        "cognition": Published(376.4, 303.2, 295.4),
    },
    notes=("MME moves by about 20 points by chance (LLaVA's maintainer).",),
)
