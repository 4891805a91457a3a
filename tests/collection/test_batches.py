"""OpenAI's Batch API: half the price, one answer for every image, and no batch paid twice."""

import asyncio
import json
from collections import Counter
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from s4v_core.captioning.caption_pass import make_task, plan_run
from s4v_core.collection.answer_store import AnswerStore
from s4v_core.collection.batching import BatchEnding, run_batches
from s4v_core.collection.checks import check_collection
from s4v_core.collection.collect_pass import run_collection
from s4v_core.collection.job import Batch, Budget, CollectJob, Endpoint
from s4v_core.collection.prompts import label_texts
from s4v_core.collection.task import CollectTask
from s4v_core.engines.openai_batches import BatchClient
from s4v_core.engines.requests import Generation, Request
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import EngineError
from s4v_core.flow.loading import load_rows
from s4v_core.inputs.indexing import INDEX_SCHEMA, index_shard
from s4v_core.inputs.source_names import name_sources
from s4v_core.records.captions import CAPTIONS
from s4v_core.records.plan import read_plan_head
from s4v_core.records.plan_writing import build_head, write_plan
from s4v_core.records.planned_rows import read_planned_unit
from s4v_core.records.schemas import table_of
from s4v_core.runs.driver import Run
from tests.collection.collected_run import (
    INPUT_PRICE,
    OUTPUT_PRICE,
    check_ids,
    open_teacher,
    write_images,
)
from tests.collection.teacher_server import OUTPUT_TOKENS, PROMPT_TOKENS, Faults

IMAGES = 48
COST = round(PROMPT_TOKENS * INPUT_PRICE + OUTPUT_TOKENS * OUTPUT_PRICE)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "data", IMAGES)


def _make_job(images: Path, output: Path, url: str, spending: float | None = None) -> CollectJob:
    return CollectJob(
        input=(str(images),),
        output=str(output),
        model="teacher",
        unit_size=16,
        endpoint=Endpoint(url=(url,)),
        budget=Budget(input_price=INPUT_PRICE, output_price=OUTPUT_PRICE, spending=spending),
        batch=Batch(enabled=True, poll_s=0.1, max_requests=10),
    )


class _Silent:
    """An engine that must not be asked."""

    version = "none"

    async def generate(self, request: Request, sampling: SamplingConfig, *_: Any) -> Generation:
        raise AssertionError("every answer is kept already")


@dataclass
class _Batched:
    """A collection by batches up to its answers, without the flow that makes rows of them."""

    run: Run
    task: CollectTask
    run_batches: Any

    def make_rows(self) -> list[dict[str, Any]]:
        rows = []
        for unit in self.run.head.units:
            planned = read_planned_unit(self.run.output, unit, self.run.head.parts).to_pylist()
            for row, content in zip(*load_rows(planned, False), strict=True):
                prepared = self.task.prepare(row, content)
                work = self.task.answer(prepared.about, prepared.pictures, _Silent())
                rows.append(asyncio.run(work))
        return rows

    def count_kept(self) -> int:
        return sum(map(len, self.task.store.list_all().values()))


def _batch(job: CollectJob, reading: str = "first") -> _Batched:
    collection = check_collection(job)
    checked = collection.checked
    head = read_plan_head(job.output)
    if head is None:
        found = [table_of(index_shard(s)[0], INDEX_SCHEMA, s.uri) for s in checked.shards]
        table = pa.concat_tables(name_sources(rows, job.sources, None) for rows in found)
        about = {"kind": CAPTIONS.folder, "key": CAPTIONS.key, "unit_size": job.unit_size}
        digest = checked.listing_digest
        head = build_head([table.num_rows], [], checked.settings, digest, **about)
        head = write_plan(job.output, head, [table])
    run = plan_run(checked, head, job.output)
    task = CollectTask(
        caption=make_task(checked),
        labels=label_texts(collection.prompts),
        store=AnswerStore(job.output, reading),
        limits=collection.limits,
        asks=False,
    )
    return _Batched(run, task, partial(run_batches, collection, run, task))


def _count_batches(log: list[dict[str, Any]]) -> int:
    return sum(one["event"] == "batch" for one in log)


def test_batches_bring_one_answer_for_every_image_for_half_the_price(
    images: Path, tmp_path: Path
) -> None:
    faults = Faults(
        first={"expired": 0.2}, always={"refusal": 0.1, "filtered": 0.1}, is_strict=True
    )
    with open_teacher(tmp_path / "a", faults) as teacher:
        batched = _batch(_make_job(images, tmp_path / "out", teacher.url))
        ending: BatchEnding = batched.run_batches()
        assert ending == BatchEnding(None, frozenset(batched.run.head.units))
        assert set(teacher.count_paid().values()) == {1}
        # One request teaches what the strict endpoint does not take; all others go by batches.
        assert len(teacher.list_arrivals()) <= 4
        assert _count_batches(teacher.read_log()) > IMAGES // 10
    rows = batched.make_rows()
    assert len({row["image_id"] for row in rows}) == IMAGES
    assert {row["status"] for row in rows} == {"ok", "rejected"}
    reasons = {row["reason"] for row in rows if row["status"] == "rejected"}
    assert reasons == {"model_refusal", "content_filter"}
    costs = Counter(row["cost_micro"] for row in rows if row["status"] == "ok")
    assert set(costs) <= {COST // 2, COST}
    assert costs[COST] <= 1
    assert {row["served_model"] for row in rows if row["status"] == "ok"} == {"teacher-2026"}


def test_a_process_that_died_with_batches_under_way_pays_for_none_again(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit, deaths = BatchClient.submit, [3]

    def die_after_the_start(self: BatchClient, file: Path, tag: str) -> str:
        """Die when the batch is started, and before anybody knows its number."""
        batch_id = submit(self, file, tag)
        deaths[0] -= 1
        if deaths[0] == 0:
            raise KeyboardInterrupt
        return batch_id

    with open_teacher(tmp_path / "a") as teacher:
        job = _make_job(images, tmp_path / "out", teacher.url)
        monkeypatch.setattr(BatchClient, "submit", die_after_the_start)
        with pytest.raises(KeyboardInterrupt):
            _batch(job).run_batches()
        notes = [json.loads(f.read_text()) for f in (tmp_path / "out" / "batches").glob("*.json")]
        assert [note["batch_id"] is None for note in notes].count(True) == 1
        assert _count_batches(teacher.read_log()) == 3
        batched = _batch(job, "second")
        assert batched.run_batches().stopped is None
        assert set(teacher.count_paid().values()) == {1}
        assert _count_batches(teacher.read_log()) == -(-(IMAGES - 1) // 10)
        assert batched.count_kept() == IMAGES


def test_a_spending_limit_ends_batches_and_a_higher_one_goes_on(
    images: Path, tmp_path: Path
) -> None:
    # A request counts with its longest answer until its own is there.
    limit = 4 * (PROMPT_TOKENS * INPUT_PRICE + 1024 * OUTPUT_PRICE) / 2 / 1e6
    with open_teacher(tmp_path / "a") as teacher:
        batched = _batch(_make_job(images, tmp_path / "out", teacher.url, limit))
        ending = batched.run_batches()
        charged = sum(teacher.count_paid().values())
        assert 0 < charged == batched.count_kept() < IMAGES
        assert batched.task.store.sum_costs(batched.run.head.units) <= limit * 1e6
        assert "the spending limit is reached" in ending.stopped
        assert ending.complete == frozenset()
        more = _batch(_make_job(images, tmp_path / "out", teacher.url), "second")
        assert more.run_batches().stopped is None
        assert set(teacher.count_paid().values()) == {1}
        assert more.count_kept() == IMAGES


def test_an_endpoint_without_batches_is_one_sentence(images: Path, tmp_path: Path) -> None:
    from tests.engines.weather_endpoint import open_endpoint

    with open_endpoint() as endpoint:
        endpoint.reply = lambda body, text: None
        batched = _batch(_make_job(images, tmp_path / "out", endpoint.url + "/nowhere"))
        with pytest.raises(EngineError, match="Batch API"):
            batched.run_batches()


@pytest.mark.usefixtures("local_ray")
def test_the_answers_of_batches_become_rows(images: Path, tmp_path: Path) -> None:
    with open_teacher(tmp_path / "a") as teacher:
        outcome = run_collection(_make_job(images, tmp_path / "out", teacher.url))
        assert outcome.exit_code == 0
        assert set(teacher.count_paid().values()) == {1}
    rows = check_ids(tmp_path / "out", IMAGES)
    assert {row["status"] for row in rows} == {"ok"}
    assert outcome.spent == sum(row["cost_micro"] for row in rows)
    assert outcome.spent == (IMAGES - 1) * (COST // 2) + COST
