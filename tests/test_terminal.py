"""Names of files reach the terminal without anything that it would obey."""

import logging
from pathlib import Path

import pytest

from ray_jobs import command_line, status
from s4v_core.captioning.first_captions import read_first_captions
from s4v_core.errors import InputError
from s4v_core.terminal import printable
from tests.captioning.captioned_run import caption_inputs
from tests.conftest import photo, write_tar

HOSTILE = "\x1b[31mred\x07 \x9b2J \u202eevil \u2066x \x7f a\nb\rc \udc80 \u2028 \0"


def _obeys(text: str) -> set[str]:
    return {char for char in text if not char.isprintable()}


def test_a_hostile_name_becomes_one_printable_line() -> None:
    shown = printable(HOSTILE)
    assert not _obeys(shown)
    assert "red" in shown
    assert "evil" in shown
    shown.encode()  # surrogates of names that are not UTF-8 cannot be printed
    assert printable("Ein Bild, 一张图片 🐈") == "Ein Bild, 一张图片 🐈"


def test_errors_warnings_lines_and_logs_are_printable(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command_line.complain(InputError(HOSTILE, f"holds {HOSTILE}"))
    command_line.warn(HOSTILE)
    command_line.show(f"first\n{HOSTILE}")
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    command_line._start_logging()
    logging.getLogger("s4v_core").warning("found %s", HOSTILE)
    said = capsys.readouterr()
    assert _obeys(said.err) == _obeys(said.out) == {"\n"}
    assert len(said.err.splitlines()) == 3


def test_case_33_ids_do_not_reach_the_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = ["\x1b[31mred\x07.jpg", "a\nb.jpg"]
    write_tar(tmp_path / "in" / "0.tar", {name: photo(n) for n, name in enumerate(names)})
    out = tmp_path / "o\x1but"
    caption_inputs(out, tmp_path / "in")
    for image_id, text in read_first_captions(str(out), 2):
        command_line.show(f"  {printable(image_id)}: {printable(text)}")
    status.main([str(out), "--verify"])
    said = capsys.readouterr().out
    assert _obeys(said) == {"\n"}
    assert len([line for line in said.splitlines() if line.startswith("  0/")]) == 2
