"""The files that remote scorers take, and tables in .xlsx."""

import io
import json
import zipfile
from pathlib import Path

import pytest

from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import Answer
from s4v_core.evaluation.catalogue import BENCHMARKS
from s4v_core.evaluation.scoring import read_questions
from s4v_core.evaluation.spreadsheets import read_sheet, write_sheet
from tests.evaluation import tiny


def _build(name: str, questions: list[tiny.Question], answers: list[Answer]) -> bytes:
    submission = BENCHMARKS[name].submission
    assert submission is not None
    return submission.build(tiny.score(name, questions, answers).matched.marked)


def test_an_upload_of_vqav2_has_every_question_normalised(tmp_path: Path) -> None:
    tiny.make_vqav2(tmp_path, with_answers=False)
    questions = read_questions(BENCHMARKS["vqav2"], str(tmp_path))
    upload = json.loads(_build("vqav2", questions, [Answer("1002", "Two.")]))
    assert upload == [
        {"question_id": 1001, "answer": ""},
        {"question_id": 1002, "answer": "2"},
        {"question_id": 1003, "answer": ""},
    ]


def test_an_upload_of_vizwiz_has_images_for_ids(tmp_path: Path) -> None:
    questions = tiny.read("vizwiz", tmp_path)
    upload = json.loads(_build("vizwiz", questions, [Answer("1", "Unanswerable")]))
    assert upload == [
        {"image": "VizWiz_val_00000000.jpg", "answer": ""},
        {"image": "VizWiz_val_00000001.jpg", "answer": "unanswerable"},
    ]


def test_an_upload_of_mm_vet_has_raw_texts_by_id(tmp_path: Path) -> None:
    questions = tiny.read("mm-vet", tmp_path)
    upload = json.loads(
        _build("mm-vet", questions, [Answer("0", "5 apples."), Answer("v1_2", "x")])
    )
    assert upload == {"v1_0": "5 apples.", "v1_1": "", "v1_2": "x", "v1_3": ""}


def test_an_upload_of_mmbench_has_the_columns_of_the_server(tmp_path: Path) -> None:
    questions = tiny.read("mmbench", tmp_path)
    sheet = read_sheet("x", _build("mmbench", questions, [Answer("1000007", "D & <b>")]))
    columns = ["index", "question", "A", "B", "C", "D", "prediction", "answer", "split"]
    assert [list(row) for row in sheet] == [columns] * 8
    assert (sheet[1]["index"], sheet[1]["prediction"], sheet[0]["prediction"]) == (
        "1000007", "D & <b>", "",
    )  # fmt: skip


CELLS = ["", "a", "=1+1", "<&>", "  blank ", "line\nbreak", "是", "🙂", "nan", "1.0", "a" * 32_767]


@pytest.mark.parametrize("cell", CELLS, ids=range(len(CELLS)))
def test_a_cell_comes_back_as_it_was_written(cell: str) -> None:
    data = write_sheet(["index", "text"], [[7, cell]])
    assert read_sheet("x", data) == [{"index": "7", "text": cell}]


def test_what_no_cell_can_hold_is_cut_off_and_never_breaks_the_file() -> None:
    data = write_sheet(["a"], [["\x00x\x0b\ud800y" + "z" * 100_000]])
    ((value,),) = (row.values() for row in read_sheet("x", data))
    assert value.startswith("xyz")
    assert len(value) == 32_767


def test_a_sheet_is_the_same_bytes_each_time_and_of_30_columns() -> None:
    columns = [f"c{n}" for n in range(30)]
    first, second = (write_sheet(columns, [list(range(30))]) for _ in range(2))
    assert first == second
    assert read_sheet("x", first)[0]["c29"] == "29"


def test_shared_strings_are_read() -> None:
    sheet = write_sheet(["a"], [["b"]])
    sink = io.BytesIO()
    main = "http://schemas.openxmlformats.org/spreadsheetml/2006/main"
    with zipfile.ZipFile(io.BytesIO(sheet)) as old, zipfile.ZipFile(sink, "w") as new:
        for name in old.namelist():
            text = old.read(name).decode()
            if name.endswith("sheet1.xml"):
                text = text.replace(
                    '<c r="A2" t="inlineStr"><is><t xml:space="preserve">b</t></is></c>',
                    '<c r="A2" t="s"><v>1</v></c>',
                )
            new.writestr(name, text)
        texts = "<si><t>zero</t></si><si><r><t>o</t></r><r><t>ne</t></r></si>"
        new.writestr("xl/sharedStrings.xml", f'<sst xmlns="{main}">{texts}</sst>')
    assert read_sheet("x", sink.getvalue()) == [{"a": "one"}]


@pytest.mark.parametrize("data", [b"PK", b"no zip", write_sheet(["a"], [["b"]])[:300]])
def test_half_a_sheet_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match="is no whole"):
        read_sheet("answers.xlsx", data)
