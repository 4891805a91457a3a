"""One collection from job to outcome: check, plan, ask for what is missing, report."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from s4v_core import storage
from s4v_core.captioning.caption_pass import make_task, plan_run, write_pages
from s4v_core.captioning.planning import plan_input
from s4v_core.collection.answer_store import AnswerStore
from s4v_core.collection.batching import run_batches
from s4v_core.collection.checks import CheckedCollection, check_collection
from s4v_core.collection.job import CollectJob
from s4v_core.collection.prompts import label_texts
from s4v_core.collection.spending import sum_spending, write_spending
from s4v_core.collection.task import CollectTask
from s4v_core.errors import EngineError
from s4v_core.flow.budget import Spending
from s4v_core.runs.driver import make_run_id, run_missing
from s4v_core.runs.outcome import Outcome

_OWN_FLAGS = {
    "--settings.url": "--endpoint.url",
    "--settings.request-timeout-s": "--endpoint.timeout-s",
    "--settings.endpoint-patience-s": "--endpoint.patience-s",
    "--settings.max-concurrent-requests": "--endpoint.concurrency",
    "--engines": "--workers",
}
"""Flags of caption.py in the messages of the flow, and what the same is called here."""


@dataclass(frozen=True, slots=True)
class CollectOutcome:
    """How a collection ended.

    Attributes:
        spent: Paid for all answers of the run, in millionths of the currency; `unheard` of it for
            requests without an answer.
        waiting: Answers that are paid for and wait for the rest of their units.
    """

    outcome: Outcome
    has_prices: bool
    spent: int
    unheard: int = 0
    waiting: int = 0

    @property
    def exit_code(self) -> int:
        return self.outcome.exit_code

    def as_text(self) -> str:
        """A summary for people."""
        lines = [name_own_flags(self.outcome.as_text())]
        if self.has_prices:
            lines.append(self._describe_spending())
        if self.outcome.stopped:
            lines.append(self._describe_rest())
        return "\n".join(lines)

    def _describe_spending(self) -> str:
        line = f"spent {self.spent / 1e6:,.4f}"
        if self.unheard:
            line += f", {self.unheard / 1e6:,.4f} of it for requests without an answer"
        rows = self.outcome.counts.done + self.waiting
        return line + (f"; {self.spent / rows / 1e6:,.6f} an image" if rows else "")

    def _describe_rest(self) -> str:
        counts = self.outcome.counts
        left = counts.rows - counts.done - self.waiting
        line = f"{left} of {counts.rows} images are left to ask about"
        if rows := counts.done + self.waiting:
            line += f", about {self.spent / rows * left / 1e6:,.2f} more"
        if self.waiting:
            line += (
                f"; {self.waiting} answers are paid for and kept, and become rows when the rest of "
                "their units is asked"
            )
        return f"{line}; the same command with a higher --budget.spending goes on"


def name_own_flags(text: str) -> str:
    """A text that names flags of caption.py, with those of collect.py in their places."""
    for theirs, own in _OWN_FLAGS.items():
        text = text.replace(theirs, own)
    return text


def run_collection(
    job: CollectJob, on_checked: Callable[[CheckedCollection], None] | None = None
) -> CollectOutcome:
    """Ask the teacher about every image that has no row yet.

    Args:
        on_checked: Called once everything is checked, before anything is written.

    Raises:
        ConfigError, InputError: Before anything is written.
        StorageError, EngineError: A store or all endpoints fail as a whole; what is done stays
            done.
    """
    job = job.replace(output=storage.absolute(job.output))
    collection = check_collection(job)
    if on_checked:
        on_checked(collection)
    try:
        return _Collection(collection).run()
    except EngineError as error:
        raise EngineError(error.engine, name_own_flags(error.problem)) from error


class _Collection:
    """A checked collection while it runs."""

    def __init__(self, collection: CheckedCollection) -> None:
        self._collection, self._job = collection, collection.job
        self._limits = collection.limits
        checked, output = collection.checked, collection.job.output
        self._run = replace(
            plan_run(checked, plan_input(checked), output),
            make_task=self._make_task,
            label="collecting",
            about={"job": collection.job.model_dump()},
        )
        self._store = AnswerStore(output, make_run_id())
        self._store.forget(set() if self._run.heal else self._run.units.list_done())
        self._paid = sum_spending(self._run, self._store)
        self._read_spending: Callable[[], Spending] | None = None

    def run(self) -> CollectOutcome:
        try:
            outcome = self._run_batched() if self._job.batch.enabled else run_missing(self._run)
        finally:
            spending = self._note_spending()
        done = self._run.units.list_done()
        self._store.forget(done)
        waiting = sum(len(keys) for keys in self._store.list_all().values())
        outcome = write_pages(
            self._collection.checked.job, self._run.head, outcome, outcome.has_run
        )
        has_prices = bool(self._limits.input_price or self._limits.output_price)
        return CollectOutcome(outcome, has_prices, spending.spent, spending.unheard, waiting)

    def _run_batched(self) -> Outcome:
        """Bring answers by batches, and make rows of them."""
        ending = run_batches(self._collection, self._run, self._make_plain_task())
        self._paid = sum_spending(self._run, self._store)
        if ending.stopped is None:
            return run_missing(self._run)
        outcome = run_missing(replace(self._run, only=ending.complete))
        return replace(outcome, stopped=ending.stopped)

    def _make_task(self) -> CollectTask:
        """The task on a Ray that runs, with the budget that all workers share."""
        from s4v_core.flow.shared_budget import SharedBudget

        budget = SharedBudget(self._limits, self._paid)
        self._read_spending = budget.read_spending
        return replace(self._make_plain_task(), meter=budget)

    def _make_plain_task(self) -> CollectTask:
        return CollectTask(
            caption=make_task(self._collection.checked),
            labels=label_texts(self._collection.prompts),
            store=self._store,
            limits=self._limits,
            asks=not self._job.batch.enabled,
        )

    def _note_spending(self) -> Spending:
        """Write down what was spent, whatever ended the run."""
        if self._read_spending is None:
            return Spending(self._paid, 0, 0, 0)
        found = self._read_spending()
        write_spending(self._job.output, found)
        return found
