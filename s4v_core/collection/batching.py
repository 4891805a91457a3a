"""Asks for answers by OpenAI's Batch API, and keeps them where the flow finds them.

Each batch has a note in OUTPUT/batches before it is started. Its tag stands in the batch's own
metadata, too, so that a process which is killed between the start and the note of the batch's id
leaves nothing that is paid twice: the next one finds the batch by its tag.
"""

import asyncio
import logging
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from s4v_core.collection.answer_store import PaidAnswer
from s4v_core.collection.asked_rows import AskedRow, list_requests
from s4v_core.collection.batch_notes import BatchNote, BatchNotes
from s4v_core.collection.checks import CheckedCollection
from s4v_core.collection.spending import sum_spending
from s4v_core.collection.task import CollectTask
from s4v_core.engines.endpoint import EndpointEngine
from s4v_core.engines.metering import Usage, estimate_usage, read_usage
from s4v_core.engines.openai_batches import BatchClient
from s4v_core.engines.requests import Generation
from s4v_core.errors import EngineError
from s4v_core.records.planned_rows import read_planned_unit
from s4v_core.runs.driver import Run, make_run_id

log = logging.getLogger(__name__)

_MOST_ROUNDS = 3
"""Times that a request is put into a batch; what is unanswered then is a row without a caption."""

_LEAST_SHARE = 0.05
"""Share of a round's requests below which what is left of the spending limit starts no other."""

_WRITERS = 16


@dataclass(frozen=True, slots=True)
class BatchEnding:
    """How the batches ended.

    Attributes:
        stopped: Why no more were sent, although answers are missing; None if none are.
        complete: Units of which every request has its answer.
    """

    stopped: str | None
    complete: frozenset[int]


def run_batches(collection: CheckedCollection, run: Run, task: CollectTask) -> BatchEnding:
    """Bring the answers of all rows that have none into the store.

    Raises:
        EngineError: The endpoint does not take batches, or refuses them.
        StorageError: A store fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        return _Batcher(collection, run, task, Path(scratch)).run()


@dataclass
class _Part:
    """Requests of one batch while it is filled."""

    file: Path
    names: list[str] = field(default_factory=list)
    size: int = 0
    cost: int = 0

    def add(self, name: str, line: bytes, cost: int) -> None:
        with self.file.open("ab") as sink:
            sink.write(line)
        self.names.append(name)
        self.size += len(line)
        self.cost += cost


class _Batcher:
    def __init__(
        self, collection: CheckedCollection, run: Run, task: CollectTask, scratch: Path
    ) -> None:
        self._settings, self._limits = collection.job.batch, collection.limits
        self._run, self._task, self._scratch = run, task, scratch
        self._client = BatchClient(run.engine)
        self._notes = BatchNotes(run.output)
        self._open: dict[str, BatchNote] = {}
        self._is_exhausted = False
        self._most_prompt = 0
        self._parts = 0
        self._spent = sum_spending(run, task.store)

    def run(self) -> BatchEnding:
        self._adopt_open()
        left = self._list_left()
        for _ in range(_MOST_ROUNDS):
            sent = self._send_round()
            self._wait(0)
            left, before = self._list_left(), left
            if not left or (not sent and left == before):
                break
            if self._is_exhausted and sent < _LEAST_SHARE * len(left):
                break
        stopped = None
        if left and self._is_exhausted:
            limit = self._limits.spending or 0
            stopped = (
                f"the spending limit is reached: {self._spent / 1e6:,.4f} of {limit / 1e6:,.4f} "
                "spent, and another batch may cost more than what is left"
            )
        units = set(self._list_todo()) - {unit for unit, _ in left}
        return BatchEnding(stopped, frozenset(units))

    def _list_todo(self) -> list[int]:
        """Units that a file lacks, or that hold failed rows where these are done again."""
        done = self._run.units.list_done()
        todo = [unit for unit in self._run.head.units if unit not in done]
        if self._run.heal:
            accounts = map(self._run.units.read_account, sorted(done))
            todo += [one.unit for one in accounts if one.ok < one.rows]
        return todo

    def _list_left(self) -> set[tuple[int, str]]:
        return {(row.unit, row.key) for row in self._list_unanswered()}

    def _list_unanswered(self) -> Iterator[AskedRow]:
        """Requests that are neither answered nor in a batch that waits."""
        stored = self._task.store.list_all()
        waiting = {name for note in self._open.values() for name in note.names}
        for unit in self._list_todo():
            planned = read_planned_unit(self._run.output, unit, self._run.head.parts).to_pylist()
            kept = stored.get(unit, set())
            if self._run.heal and self._run.units.exists(unit):
                rows = self._run.units.read_common(unit).to_pylist()
                failed = {row["image_id"] for row in rows if row["status"] != "ok"}
                planned = [row for row in planned if row["image_id"] in failed]
            if len(kept) >= len(planned):
                continue  # all answered: no need to read the images once more
            for row in list_requests(self._task.caption, planned):
                if row.key not in kept and _name(row) not in waiting:
                    yield row

    def _send_round(self) -> int:
        """Put every unanswered request into a batch, as far as the spending limit allows; returns
        how many."""
        sent, part = 0, self._begin_part()
        self._is_exhausted = False
        for row in self._list_unanswered():
            if not self._most_prompt:
                self._ask_one(row)  # teaches which parameters the endpoint takes, and its tokens
                sent += 1
                continue
            usage = estimate_usage(row.request, row.sampling)
            most = Usage(max(usage.prompt_tokens, self._most_prompt), usage.output_tokens)
            cost = self._limits.price(most)
            if not self._is_affordable(part.cost + cost):
                self._is_exhausted = True
                break
            line = self._client.build_line(_name(row), row.request, row.sampling)
            is_full = part.size + len(line) > self._settings.max_mib << 20
            if is_full or len(part.names) >= self._settings.max_requests:
                self._submit(part)
                part = self._begin_part()
            part.add(_name(row), line, cost)
            sent += 1
        self._submit(part)
        return sent

    def _is_affordable(self, cost: int) -> bool:
        limit = self._limits.spending
        if limit is None:
            return True
        waiting = sum(note.cost for note in self._open.values())
        return self._spent + waiting + cost <= limit

    def _ask_one(self, row: AskedRow) -> None:
        """Ask one request at once, for its full price."""
        engine = EndpointEngine([self._client.single], self._run.engine.settings)
        answer = asyncio.run(engine.generate(row.request, row.sampling))
        usage = read_usage(answer) or estimate_usage(row.request, row.sampling)
        self._most_prompt = max(usage.prompt_tokens, 1)
        share = self._settings.price_share
        cost = round(self._task.price(row.request, row.sampling, answer) / share)
        self._task.store.keep(row.unit, row.key, PaidAnswer(answer, cost))
        self._spent += cost

    def _begin_part(self) -> _Part:
        self._parts += 1
        return _Part(self._scratch / f"part-{self._parts}.jsonl")

    def _submit(self, part: _Part) -> None:
        if not part.names:
            return
        self._wait(self._settings.max_open - 1)
        note = BatchNote(make_run_id(), None, part.names, part.cost)
        self._notes.write(note)
        note = note.with_id(self._client.submit(part.file, note.tag))
        self._notes.write(note)
        part.file.unlink()
        self._open[note.tag] = note
        log.info("batch %s of %d requests waits for its answers", note.batch_id, len(note.names))

    def _adopt_open(self) -> None:
        """Take over the batches that an earlier process has started."""
        for note in self._notes.read_open():
            batch_id = note.batch_id or self._client.find(note.tag)
            if batch_id is None:  # it was never started
                self._notes.remove(note)
                continue
            self._open[note.tag] = note.with_id(batch_id)

    def _wait(self, most_open: int) -> None:
        """Wait until no more than so many batches are open."""
        while len(self._open) > most_open:
            ended = [note for note in list(self._open.values()) if self._end(note)]
            if not ended:
                time.sleep(self._settings.poll_s)

    def _end(self, note: BatchNote) -> bool:
        """Fetch a batch's answers if it has ended; returns whether it has."""
        assert note.batch_id, "an open batch has its id"
        state = self._client.look(note.batch_id)
        if not state.is_ended:
            return False
        if state.problem and not state.files and not state.is_crowded:
            self._notes.remove(note)
            raise EngineError("openai", f"the batch {note.batch_id} was refused: {state.problem}")
        for file_id in state.files:
            self._keep_answers(file_id, note)
        self._notes.close(note, state.status)
        del self._open[note.tag]
        log.info("batch %s: %s", note.batch_id, state.status)
        return True

    def _keep_answers(self, file_id: str, note: BatchNote) -> None:
        known = set(note.names)
        found = self._client.fetch(file_id, self._scratch / "answers.jsonl")
        with ThreadPoolExecutor(_WRITERS) as pool:
            own = ((name, answer) for name, answer in found if name in known)
            self._spent += sum(pool.map(lambda pair: self._keep(*pair), own))

    def _keep(self, name: str, answer: Generation) -> int:
        """Keep an answer; returns its price."""
        unit, key = name.split("-")
        usage = read_usage(answer)
        cost = self._limits.price(usage) if usage else 0
        self._task.store.keep(int(unit), key, PaidAnswer(answer, cost))
        return cost


def _name(row: AskedRow) -> str:
    return f"{row.unit}-{row.key}"
