"""Answers that are kept before their rows: found again, never bought twice, and gone in time."""

import asyncio
from pathlib import Path
from typing import Any

import pyarrow as pa

from s4v_core.captioning.task import CaptionTask, PreparedImage
from s4v_core.collection.answer_store import AnswerStore
from s4v_core.collection.task import UNANSWERED, CollectTask, PayingEngine, TaughtImage
from s4v_core.engines.endpoint_answers import CONTENT_FILTER, MODEL_REFUSAL
from s4v_core.engines.requests import Generation, Request, fail
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.flow.budget import Limits
from s4v_core.flow.task import stamp_row
from s4v_core.images.policy import DecodeConfig, Framing
from s4v_core.records.captions import caption_units, collected_contract, contract_of
from s4v_core.records.schemas import table_of
from s4v_core.records.units import UnitFolder

REQUEST = Request("a.jpg", "sha", (), "Describe it.")
SAMPLING = SamplingConfig()
LIMITS = Limits(input_price=2.0, output_price=10.0)


class Shop:
    """An engine that counts what it is asked."""

    version = "shop 1"

    def __init__(self, answer: Generation) -> None:
        self.answer, self.sold = answer, 0

    async def generate(self, request: Request, sampling: SamplingConfig, *_: Any) -> Generation:
        self.sold += 1
        return self.answer


def _make_task(output: Path, reading: str, asks: bool = True) -> CollectTask:
    caption = CaptionTask("teacher", "", "openai", (), DecodeConfig(), Framing("fit", 64))
    return CollectTask(caption, {}, AnswerStore(str(output), reading), LIMITS, asks=asks)


def _buy(output: Path, reading: str, shop: Shop, **more: bool) -> PayingEngine:
    engine = PayingEngine(shop, _make_task(output, reading, **more), 3)
    asyncio.run(engine.generate(REQUEST, SAMPLING))
    return engine


def test_an_answer_is_bought_once_by_all_processes(tmp_path: Path) -> None:
    answer = Generation("Größe: 3 m", "stop", 100, 40, model="m-1", endpoint="http://a")
    shop = Shop(answer)
    first = _buy(tmp_path, "first", shop)
    again = _buy(tmp_path, "second", shop)
    assert shop.sold == 1
    assert again.paid == first.paid
    assert again.paid[0].answer == answer
    assert again.paid[0].cost == 100 * 2 + 40 * 10
    store = AnswerStore(str(tmp_path), "third")
    assert store.sum_costs([3]) == 600
    assert store.sum_costs([2]) == 0
    store.forget([2])
    assert store.list_all().keys() == {3}
    store.forget([3])
    assert store.list_all() == {}
    _buy(tmp_path, "fourth", shop)
    assert shop.sold == 2


def test_refusals_that_cost_are_kept_and_others_may_be_tried_again(tmp_path: Path) -> None:
    for reason in (CONTENT_FILTER, MODEL_REFUSAL):
        shop = Shop(Generation(None, "stop", 100, 3, reason, "no"))
        folder = tmp_path / reason.rpartition(":")[2]
        _buy(folder, "first", shop)
        _buy(folder, "second", shop)
        assert shop.sold == 1
    shop = Shop(fail("engine_refused:BadRequestError", "too large"))
    assert _buy(tmp_path / "bad", "first", shop).paid[0].cost == 0
    _buy(tmp_path / "bad", "second", shop)
    assert shop.sold == 2


def test_another_question_or_sampling_is_another_answer(tmp_path: Path) -> None:
    shop = Shop(Generation("A house.", "stop", 1, 1))
    task = _make_task(tmp_path, "first")
    for request, sampling in (
        (REQUEST, SAMPLING),
        (Request("b.jpg", "sha", (), "Describe it."), SAMPLING),
        (Request("a.jpg", "other", (), "Describe it."), SAMPLING),
        (Request("a.jpg", "sha", (), "What is it?"), SAMPLING),
        (REQUEST, SAMPLING.replace(seed=1)),
    ):
        asyncio.run(PayingEngine(shop, task, 3).generate(request, sampling))
    assert shop.sold == 5
    assert len(task.store.list_all()[3]) == 5


def test_a_task_that_must_not_ask_says_that_there_is_no_answer(tmp_path: Path) -> None:
    shop = Shop(Generation("A house.", "stop", 1, 1))
    engine = PayingEngine(shop, _make_task(tmp_path, "first", asks=False), 3)
    assert asyncio.run(engine.generate(REQUEST, SAMPLING)).reason == UNANSWERED
    assert shop.sold == 0


def test_readers_of_caption_runs_read_collected_rows(tmp_path: Path) -> None:
    contract = collected_contract()
    assert contract_of({"collection": {"prompts": []}}) == contract
    known = dict.fromkeys(contract.schema.names)
    row = known | {"image_id": "a", "uri": "a", "source": "coco", "caption": "A house."}
    row |= {"status": "ok", "attempts": 1, "prompt": "p", "model": "t", "model_revision": ""}
    row |= {"engine": "openai", "sampling": "{}", "cost_micro": 7, "prompt_tokens": 5}
    rows = table_of([stamp_row(row, "run")], contract.schema, "rows")
    account, _ = UnitFolder(str(tmp_path), contract).commit(0, "digest", "run", rows)
    assert account.sums["cost_micro"] == 7
    found = caption_units(str(tmp_path)).read_columns(0, ["caption", "quality"])
    assert found.to_pylist() == [{"caption": "A house.", "quality": None}]
    assert isinstance(found, pa.Table)


def test_a_row_that_no_worker_survived_has_all_columns(tmp_path: Path) -> None:
    from s4v_core.captioning.fields import build_field
    from s4v_core.captioning.gate import Gate
    from s4v_core.captioning.prompts import Prompt, Question
    from s4v_core.engines.ladder import Ladder

    field = build_field("caption", (Prompt("Describe it."),), SAMPLING, Gate(), Ladder())
    caption = CaptionTask("teacher", "", "openai", (field,), DecodeConfig(), Framing("fit", 64))
    store = AnswerStore(str(tmp_path), "first")
    task = CollectTask(caption, {"Describe it.": "head"}, store, LIMITS)
    image = PreparedImage("a", "a", "coco", (Question("Describe it."),))
    row = stamp_row(task.fail(TaughtImage(image, 0), "worker_died"), "run")
    [found] = table_of([row], task.contract.schema, "rows").to_pylist()
    assert (found["reason"], found["cost_micro"], found["prompt_parts"]) == (
        "worker_died",
        0,
        "head",
    )
