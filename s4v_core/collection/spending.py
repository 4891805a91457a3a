"""The cost of a collection so far, over all of its processes."""

import json

from s4v_core import storage
from s4v_core.collection.answer_store import AnswerStore
from s4v_core.flow.budget import Spending
from s4v_core.runs.driver import Run

SPENDING_NAME = "spending.json"


def sum_spending(run: Run, store: AnswerStore) -> int:
    """Spent up to now, in millionths of the currency, as far as it is known: by the rows that are
    durable, the answers that wait for theirs, and what earlier processes wrote down."""
    done = run.units.list_done()
    rows = sum(run.units.read_account(unit).sums.get("cost_micro", 0) for unit in done)
    waiting = store.sum_costs(set(run.head.units) - done)
    return max(rows + waiting, read_spending(run.output))


def read_spending(output: str) -> int:
    """Spent up to the end of the last process that ended by itself. It is more than the rows say if
    rows were replaced, or requests were charged that brought no answer."""
    try:
        found = json.loads(storage.read(storage.join(output, SPENDING_NAME)))
    except FileNotFoundError:
        return 0
    return int(found["spent_micro"])


def write_spending(output: str, spending: Spending) -> None:
    """Note what was spent when a process ends."""
    note = {"spent_micro": spending.spent, "unheard_micro": spending.unheard}
    storage.replace_json(storage.join(output, SPENDING_NAME), note)
