"""The table that `tests/gpu` measures on a GPU, with a small shape on this machine."""

import pytest

from tests.gpu.small_shape import small_config
from tests.gpu.switches import CHOICES, format_row, measure_switches

ROWS = tuple(choice for choice in CHOICES if "compile" not in choice.name)


@pytest.mark.slow
def test_every_switch_has_its_row_and_its_loss() -> None:
    found = {row.name: row for row in measure_switches(small_config(), "cpu", 3, 10, ROWS)}
    assert list(found) == [choice.name for choice in ROWS]
    assert found["flex"].problem == "needs a GPU"
    assert found["flash"].problem == "needs a GPU with FlashAttention"
    measured = [row for row in found.values() if not row.problem]
    assert all(row.tokens_per_s > 0 and row.peak_gib > 0 for row in measured)
    first = found[ROWS[0].name]
    for name in ("prefetch 1", "no reshard", "no checkpointing"):
        assert found[name].loss == pytest.approx(first.loss, rel=1e-5)
    assert "| flex | needs a GPU |" in format_row(found["flex"])


def test_rows_without_time_say_so() -> None:
    rows = list(measure_switches(small_config(), "cpu", 2, 0, ROWS[:2]))
    assert [row.problem for row in rows[1:]] == ["not measured: no time left"]
