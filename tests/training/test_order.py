"""Which samples make up which step, whoever computes it."""

import subprocess
import sys

import numpy as np
import pytest

from s4v_core.training.data.order import Order, pack_rows, split_over_workers


def _order(count: int = 103, grouped: bool = False, seed: int = 5) -> Order:
    has_image = np.arange(count) % 3 != 0
    return Order(has_image, batch_size=8, seed=seed, epochs=2, grouped=grouped)


@pytest.mark.parametrize("grouped", [False, True])
def test_an_epoch_holds_every_sample_once(grouped: bool) -> None:
    order = _order(grouped=grouped)
    for epoch in range(2):
        steps = order.draw_epoch(epoch)
        assert len(steps) == order.steps_per_epoch == 13
        assert sorted(np.concatenate(steps)) == list(range(103))
    assert not np.array_equal(order.draw_epoch(0)[0], order.draw_epoch(1)[0])


def test_grouped_steps_hold_one_modality_but_for_what_is_left_over() -> None:
    order = _order(grouped=True)
    kinds = [set(order.has_image[step]) for step in order.draw_epoch(0)]
    full = (69 // 8) + (34 // 8)
    assert all(len(kind) == 1 for kind in kinds[:full])
    assert [len(step) for step in order.draw_epoch(0)] == [8] * 12 + [7]


def test_the_order_is_the_same_in_another_process() -> None:
    code = (
        "import numpy as np; from s4v_core.training.data.order import Order;"
        "o = Order(np.arange(103) % 3 != 0, 8, 5, 2); print(o.draw_step(20).tolist())"
    )
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == str(_order().draw_step(20).tolist())


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_all_numbers_of_workers_see_the_same_steps(workers: int) -> None:
    order, lengths = _order(), np.arange(103) % 17 + 5
    for step in range(order.steps):
        numbers = order.draw_step(step)
        shares = split_over_workers(numbers, lengths[numbers], workers, 8 // workers // 2)
        assert sorted(n for share in shares for part in share for n in part) == sorted(numbers)
        assert len({len(share) for share in shares}) == 1


def test_shares_of_a_step_take_about_the_same_time() -> None:
    numbers, lengths = np.arange(64), np.random.default_rng(0).integers(50, 800, 64)
    shares = split_over_workers(numbers, lengths, workers=4, device_batch_size=16)
    costs = [sum(lengths[n] for part in share for n in part) for share in shares]
    assert max(costs) < 1.05 * min(costs)


def test_rows_are_filled_and_never_overflow() -> None:
    lengths = [30, 100, 20, 50, 120, 10]
    rows = pack_rows(lengths, 100)
    assert sorted(place for row in rows for place in row) == list(range(6))
    assert all(sum(lengths[p] for p in row) <= 100 or len(row) == 1 for row in rows)
    assert len(rows) == 4
