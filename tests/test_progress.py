"""Progress bars go on to say what happens while nothing is counted."""

import pytest

from s4v_core import progress


def test_notes_are_shown_while_the_count_stands_still(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "_LOG_EVERY_S", 0.0)
    with progress.open_bar("study", 9, 2, "cmd") as bar:
        for step in range(6):
            bar.set_postfix_str(f"note {step}", refresh=False)
            bar.update(1 if step < 2 else 0)
    shown = capsys.readouterr().err
    assert all(f"note {step}" in shown for step in range(6))
