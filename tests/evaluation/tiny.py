"""Hand-made benchmarks of a few questions, in the layouts that users have on their disks."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from s4v_core.evaluation.benchmark import Answer, Question
from s4v_core.evaluation.catalogue import BENCHMARKS
from s4v_core.evaluation.scoring import Score, read_questions, score_answers


def write_json(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def write_lines(path: Path, rows: Iterable[Mapping[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def make_mme(folder: Path) -> Path:
    """Two images of `count` in the layout of the release, one of OCR in folders, one of code."""
    flat = {
        "count/0001.txt": "Are there two cats? Please answer yes or no.\tYes\n"
        "Are there three cats?  Please answer yes or no.\tNo\n",
        "count/0002.txt": "Is there one dog? Please answer yes or no.\tYes\n"
        "Are there two dogs? Please answer yes or no.\tNo",
        "posters/questions_answers_YN/tt01.txt": "Is it Alien? Please answer yes or no.\tYes\n"
        "Is it Heat Please answer yes or no.\tNo\n",
        "code_reasoning/0020.txt": "Is it python? Please answer yes or no.\tYes\n"
        "Is it c++? Please answer yes or no.\tNo\n",
    }
    for name, text in flat.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "posters/images").mkdir()
    (folder / "posters/images/tt01.jpg").write_bytes(b"jpg")
    return folder


_COLUMNS = "index question hint A B C D answer category image source l2-category split"


def make_mmbench(folder: Path, name: str = "mmbench_dev_20230712.tsv") -> Path:
    """Three questions: one of four rotations, one of two options, one whose answer stays D."""
    rows = [
        [n * 1_000_000 + 7, "What is it?", "A farm.", *order, "ABCD"[order.index("cow")], "animal"]
        for n, order in enumerate(
            (["cow", "pig", "hen", "cat"], ["pig", "hen", "cat", "cow"],
             ["hen", "cat", "cow", "pig"], ["cat", "cow", "pig", "hen"])
        )
    ]  # fmt: skip
    rows += [
        [8, "Is it day?", "nan", "yes", "no", "", "", "A", "time"],
        [1_000_008, "Is it day?", "nan", "no", "yes", "", "", "B", "time"],
        [9, "Which?", "", "one", "two", "three", "All of these", "D", "animal"],
        [1_000_009, "Which?", "", "two", "three", "one", "All of these", "D", "animal"],
    ]
    lines = [_COLUMNS.replace(" ", "\t")]
    lines += ["\t".join(map(str, [*row, "aW1n", "web", "perception", "dev"])) for row in rows]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def make_seed(folder: Path) -> Path:
    def ask(number: str, kind: int, answer: str) -> dict[str, Any]:
        texts = {f"choice_{letter}": f"{letter}{number}" for letter in "abcd"}
        return {
            "answer": answer, "data_id": f"d{number}", "question": f"What is {number}?",
            "data_type": "video" if kind > 9 else "image", "question_id": number,
            "question_type_id": kind, **texts,
        }  # fmt: skip

    questions = [ask("11", 1, "A"), ask("12", 1, "B"), ask("13", 5, "C"), ask("v1", 10, "D")]
    kinds = {"Scene Understanding": 1, "Instances Counting": 5, "Action Recognition": 10}
    return write_json(
        folder / "SEED-Bench.json", {"questions": questions, "question_type": kinds}
    ).parent


def make_science_qa(folder: Path) -> Path:
    """Four questions of the test split, three of them with an image."""
    problems = {
        str(pid): {
            "question": f"Which is {pid}?", "choices": choices, "answer": answer, "hint": hint,
            "image": image, "subject": subject, "split": "test",
        }
        for pid, choices, answer, hint, image, subject in (
            (4, ["chiasmus", "apostrophe"], 1, "", None, "language science"),
            (5, ["speed", "colour", "mass"], 0, "A test.", "image.png", "natural science"),
            (6, ["Maryland", "Vermont"], 1, "", "image.png", "social science"),
            (7, ["red", "blue", "green", "grey", "pink"], 4, "", "image.png", "natural science"),
        )
    }  # fmt: skip
    write_json(folder / "pid_splits.json", {"train": ["1"], "test": ["4", "5", "6", "7"]})
    return write_json(folder / "problems.json", problems).parent


def make_qbench(folder: Path) -> Path:
    rows = [
        {"img_path": "1.jpg", "question": "Is it sharp?", "candidates": ["Yes", "No"],
         "correct_ans": "No", "type": 0, "concern": 0},
        {"img_path": "1.jpg", "question": "What is blurred?", "candidates": ["Sky", "Hand", "All"],
         "correct_ans": "Sky", "type": 1, "concern": 2},
        {"img_path": "2.jpg", "question": "How is the light?",
         "candidates": ["High", "Low", "Medium", "Dark"], "correct_ans": "Dark", "type": 2,
         "concern": 3},
    ]  # fmt: skip
    return write_json(folder / "llvisionqa_dev.json", rows).parent


def make_vqav2(folder: Path, with_answers: bool = True) -> Path:
    asked = [("1001", "Is it red?", ["yes"] * 10), ("1002", "How many?", ["2"] * 7 + ["two"] * 3),
             ("1003", "What?", ["dog"] * 2 + ["cat", "a dog"] + ["pet"] * 6)]  # fmt: skip
    questions = [
        {"question_id": int(key), "image_id": 5, "question": text} for key, text, _ in asked
    ]
    kinds = ("yes/no", "number", "other")
    annotations = [
        {"question_id": int(key), "answer_type": kind, "multiple_choice_answer": people[0],
         "answers": [{"answer": one, "answer_id": n} for n, one in enumerate(people, 1)]}
        for (key, _, people), kind in zip(asked, kinds, strict=True)
    ]  # fmt: skip
    name = "v2_{}mscoco_val2014_{}.json"
    write_json(folder / name.format("OpenEnded_", "questions"), {"questions": questions})
    if with_answers:
        write_json(folder / name.format("", "annotations"), {"annotations": annotations})
    return folder


def make_vizwiz(folder: Path) -> Path:
    rows = [
        {"image": "VizWiz_val_00000000.jpg", "question": "What is it?", "answer_type": "other",
         "answers": [{"answer": one} for one in ["soup"] * 8 + ["can"] * 3]},
        {"image": "VizWiz_val_00000001.jpg", "question": "And this?",
         "answer_type": "unanswerable",
         "answers": [{"answer": one} for one in ["unanswerable"] * 9 + ["cup"]]},
    ]  # fmt: skip
    return write_json(folder / "val.json", rows).parent


def make_llava_w(folder: Path) -> Path:
    rows = [
        {"question_id": n, "image": "001.jpg", "text": f"Describe {n}.", "category": kind}
        for n, kind in enumerate(("conv", "detail", "complex", "complex"))
    ]
    return write_lines(folder / "questions.jsonl", rows).parent


def make_mm_vet(folder: Path) -> Path:
    abilities = (["ocr", "math"], ["rec"], ["rec", "know"], ["math", "ocr"])
    rows = {
        f"v1_{n}": {"imagename": f"v1_{n}.png", "question": f"What is {n}?", "answer": "1<OR>2",
                    "capability": several, "imagesource": "web"}
        for n, several in enumerate(abilities)
    }  # fmt: skip
    return write_json(folder / "mm-vet.json", rows).parent


def make_pope(folder: Path) -> Path:
    for category in ("random", "popular", "adversarial"):
        rows = [
            {"question_id": n, "image": f"COCO_{n // 3}.jpg", "label": label,
             "text": f"Is there a {category if label == 'no' else 'dog'} {n} in the image?"}
            for n, label in enumerate(("yes", "no", "yes", "no"), 1)
        ]  # fmt: skip
        write_lines(folder / f"coco_pope_{category}.json", rows)
    return folder


def make_mmstar(folder: Path) -> Path:
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [
        {"index": n, "question": text, "image": b"jpg", "answer": answer, "category": kind,
         "l2_category": kind + " 2", "meta_info": {"source": "x"}}
        for n, (text, answer, kind) in enumerate((
            ("Which?\nOptions: A: a cat, B: a dog, red, C: two, D: none", "B", "coarse perception"),
            ("How many?\nOptions: A: 1, B: 2, C: 3, D: 4", "D", "math"),
            ("Where?\nOptions: A: here, B: there", "A", "math"),
        ))
    ]  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / "mmstar.parquet")
    return folder


def make_stablellava(folder: Path) -> Path:
    rows = [
        {"question_id": n, "image": f"{n}.jpg", "question": f"What is {n}?", "ability": ability,
         "source": source, "keywords": keywords}
        for n, ability, source, keywords in (
            (1, "animal", "real", [["dog"], ["puppy"]]),
            (2, "animal", "generated", [["polar bear"]]),
            (3, "animal", "real", [["wolf", "snow"]]),
            (4, "color", "generated", [["red"]]),
        )
    ]  # fmt: skip
    return write_lines(folder / "keywords.jsonl", rows).parent


MAKERS = {
    "llava-w": make_llava_w,
    "mme": make_mme,
    "mmbench": make_mmbench,
    "mmbench-cn": lambda folder: make_mmbench(folder, "mmbench_dev_cn_20231003.tsv"),
    "seed": make_seed,
    "mm-vet": make_mm_vet,
    "qbench": make_qbench,
    "scienceqa": make_science_qa,
    "vqav2": make_vqav2,
    "vizwiz": make_vizwiz,
    "pope": make_pope,
    "mmstar": make_mmstar,
    "stablellava": make_stablellava,
}


def read(name: str, folder: Path) -> list[Question]:
    """The questions of a hand-made benchmark."""
    return read_questions(BENCHMARKS[name], str(MAKERS[name](folder)))


def answer(question: Question, text: str) -> Answer:
    """An answer under a key that its benchmark finds again."""
    row = {"content": text}
    if ": " in question.key and question.prompt:  # MME and Q-Bench have no ids of their own
        place = question.key.partition(": ")[0]
        row |= {"img_path": place, "question": question.text}
        return Answer(place + ".jpg", text, question.prompt, row)
    return Answer(question.key, text, question.prompt, row)


def score(name: str, questions: list[Question], answers: list[Answer]) -> Score:
    return score_answers(BENCHMARKS[name], questions, answers, "answers.jsonl")


GOLD = {"llava-w": "8 10", "mm-vet": "1.0", "vqav2": "", "vizwiz": ""}


def find_gold(name: str, question: Question) -> str:
    """The text that is right, or the best grades of a judge."""
    if question.humans:
        return max(question.humans, key=question.humans.count)
    if "keywords" in question.row:
        return " ".join(question.row["keywords"][0])
    return GOLD.get(name) or str(question.gold)
