"""Tables in .xlsx: the one sheet that MMBench's server takes, and files of the same kind read back.

Text only. A formula is never written: cells are inline strings or numbers.
"""

import io
import re
import zipfile
from collections.abc import Sequence
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from s4v_core.errors import InputError

_MAIN = "{http://schemas.openxmlformats.org/spreadsheetml/2006/main}"
_SHEET, _STRINGS = "xl/worksheets/sheet1.xml", "xl/sharedStrings.xml"
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_LONGEST_CELL = 32_767
"""Characters that a cell holds; more, and spreadsheet programs call the file damaged."""
_LARGEST_SHEET = 1 << 30

_TYPE = "application/vnd.openxmlformats-officedocument.spreadsheetml"
_PACKAGE = "http://schemas.openxmlformats.org/package/2006"
_OFFICE = "http://schemas.openxmlformats.org/officeDocument/2006/relationships"
_PARTS = {
    "[Content_Types].xml": f'<Types xmlns="{_PACKAGE}/content-types">'
    '<Default Extension="rels" '
    'ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    f'<Override PartName="/xl/workbook.xml" ContentType="{_TYPE}.sheet.main+xml"/>'
    f'<Override PartName="/{_SHEET}" ContentType="{_TYPE}.worksheet+xml"/></Types>',
    "_rels/.rels": f'<Relationships xmlns="{_PACKAGE}/relationships"><Relationship Id="rId1" '
    f'Type="{_OFFICE}/officeDocument" Target="xl/workbook.xml"/></Relationships>',
    "xl/workbook.xml": f'<workbook xmlns="{_MAIN[1:-1]}" xmlns:r="{_OFFICE}"><sheets>'
    '<sheet name="Sheet1" sheetId="1" r:id="rId1"/></sheets></workbook>',
    "xl/_rels/workbook.xml.rels": f'<Relationships xmlns="{_PACKAGE}/relationships">'
    f'<Relationship Id="rId1" Type="{_OFFICE}/worksheet" Target="worksheets/sheet1.xml"/>'
    "</Relationships>",
}


def write_sheet(columns: Sequence[str], rows: Sequence[Sequence[str | int | None]]) -> bytes:
    """An .xlsx of one sheet; the same table always gives the same bytes."""
    lines = [_write_row(number, row) for number, row in enumerate([columns, *rows], 1)]
    sheet = f'<worksheet xmlns="{_MAIN[1:-1]}"><sheetData>{"".join(lines)}</sheetData></worksheet>'
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in {**_PARTS, _SHEET: sheet}.items():
            entry = zipfile.ZipInfo(name)  # of 1980: no time of writing
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, f'<?xml version="1.0" encoding="UTF-8"?>{text}'.encode())
    return sink.getvalue()


def _write_row(number: int, cells: Sequence[str | int | None]) -> str:
    written = (_write_cell(f"{_name_column(at)}{number}", one) for at, one in enumerate(cells))
    return f'<row r="{number}">{"".join(written)}</row>'


def _write_cell(place: str, value: str | int | None) -> str:
    if value is None or value == "":
        return ""
    if isinstance(value, int):
        return f'<c r="{place}"><v>{value}</v></c>'
    text = escape(_FORBIDDEN.sub("", value)[:_LONGEST_CELL])
    return f'<c r="{place}" t="inlineStr"><is><t xml:space="preserve">{text}</t></is></c>'


def _name_column(at: int) -> str:
    return (chr(64 + at // 26) if at >= 26 else "") + chr(65 + at % 26)


def read_sheet(uri: str, data: bytes) -> list[dict[str, str]]:
    """The rows of the first sheet by the names in its first row; blank cells are "".

    Raises:
        InputError: The file is no .xlsx, or only a part of one.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(_SHEET).file_size > _LARGEST_SHEET:
                raise InputError(uri, "its sheet is larger than 1 GiB; save it as .tsv")
            texts = _read_strings(archive) if _STRINGS in archive.namelist() else []
            root = ElementTree.fromstring(archive.read(_SHEET))
    except (zipfile.BadZipFile, KeyError, ElementTree.ParseError, EOFError):
        raise InputError(uri, "is no whole .xlsx file; fetch or save it again") from None
    rows = [_read_row(row, texts) for row in root.iter(f"{_MAIN}row")]
    if not rows:
        return []
    names = rows[0]
    return [{name: row.get(at, "") for at, name in names.items()} for row in rows[1:]]


def _read_strings(archive: zipfile.ZipFile) -> list[str]:
    root = ElementTree.fromstring(archive.read(_STRINGS))
    return [_join_texts(one) for one in root.iter(f"{_MAIN}si")]


def _read_row(row: ElementTree.Element, texts: Sequence[str]) -> dict[str, str]:
    """Texts of the cells by the letter of their column."""
    cells: dict[str, str] = {}
    for at, cell in enumerate(row.iter(f"{_MAIN}c")):
        column = re.sub(r"\d", "", cell.get("r", "")) or _name_column(at)
        value = cell.findtext(f"{_MAIN}v") or ""
        kind = cell.get("t", "n")
        if kind == "s" and value.isdigit() and int(value) < len(texts):
            value = texts[int(value)]
        elif kind == "inlineStr":
            value = _join_texts(cell)
        elif kind == "n":
            value = value.removesuffix(".0")
        cells[column] = value
    return cells


def _join_texts(node: ElementTree.Element) -> str:
    return "".join(part.text or "" for part in node.iter(f"{_MAIN}t"))
