"""OpenAI's Batch API: half the price, every image exactly one row, and no batch paid twice."""

import json
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from s4v_core.collection.collect_pass import CollectOutcome, run_collection
from s4v_core.collection.job import Batch, Budget, CollectJob, Endpoint
from s4v_core.engines.openai_batches import BatchClient
from tests.collection.collected_run import (
    INPUT_PRICE,
    OUTPUT_PRICE,
    check_ids,
    open_teacher,
    read_rows,
    write_images,
)
from tests.collection.teacher_server import OUTPUT_TOKENS, PROMPT_TOKENS, Faults

pytestmark = pytest.mark.usefixtures("local_ray")

IMAGES = 48
COST = round(PROMPT_TOKENS * INPUT_PRICE + OUTPUT_TOKENS * OUTPUT_PRICE)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "data", IMAGES)


def _collect(images: Path, output: Path, url: str, **changes: Any) -> CollectOutcome:
    budget = {"input_price": INPUT_PRICE, "output_price": OUTPUT_PRICE} | changes.pop("budget", {})
    batch = {"enabled": True, "poll_s": 0.1, "max_requests": 10} | changes
    job = CollectJob(
        input=(str(images),),
        output=str(output),
        model="teacher",
        unit_size=16,
        endpoint=Endpoint(url=(url,)),
        budget=Budget(**budget),
        batch=Batch(**batch),
    )
    return run_collection(job)


def _count_batches(log: list[dict[str, Any]]) -> int:
    return sum(one["event"] == "batch" for one in log)


def test_batches_bring_every_image_one_row_for_half_the_price(images: Path, tmp_path: Path) -> None:
    faults = Faults(
        first={"expired": 0.2}, always={"refusal": 0.1, "filtered": 0.1}, is_strict=True
    )
    with open_teacher(tmp_path / "a", faults) as teacher:
        outcome = _collect(images, tmp_path / "out", teacher.url)
        assert outcome.exit_code == 0
        rows = check_ids(tmp_path / "out", IMAGES)
        paid = teacher.count_paid()
        assert set(paid.values()) == {1}
        # One request teaches what the strict endpoint does not take; all others go by batches.
        assert len(teacher.list_arrivals()) <= 4
        assert _count_batches(teacher.read_log()) >= IMAGES // 10
    statuses = Counter(row["status"] for row in rows)
    assert set(statuses) == {"ok", "rejected"}
    reasons = {row["reason"] for row in rows if row["status"] == "rejected"}
    assert reasons == {"model_refusal", "content_filter"}
    costs = Counter(row["cost_micro"] for row in rows if row["status"] == "ok")
    assert set(costs) <= {COST // 2, COST}
    assert costs[COST] <= 1
    assert outcome.spent == sum(row["cost_micro"] for row in rows)


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

    with open_teacher(tmp_path / "a", Faults(batch_s=3.0)) as teacher:
        monkeypatch.setattr(BatchClient, "submit", die_after_the_start)
        with pytest.raises(KeyboardInterrupt):
            _collect(images, tmp_path / "out", teacher.url)
        notes = [json.loads(f.read_text()) for f in (tmp_path / "out" / "batches").glob("*.json")]
        assert [note["batch_id"] is None for note in notes].count(True) == 1
        assert _count_batches(teacher.read_log()) == 3
        assert _collect(images, tmp_path / "out", teacher.url).exit_code == 0
        assert set(teacher.count_paid().values()) == {1}
        assert _count_batches(teacher.read_log()) == -(-(IMAGES - 1) // 10)
    check_ids(tmp_path / "out", IMAGES)


def test_a_spending_limit_ends_batches_with_the_rows_that_are_paid(
    images: Path, tmp_path: Path
) -> None:
    # A request is counted with its longest answer until its own is there.
    most = (PROMPT_TOKENS * INPUT_PRICE + 1024 * OUTPUT_PRICE) / 2
    limit = 12 * most / 1e6
    with open_teacher(tmp_path / "a") as teacher:
        stopped = _collect(images, tmp_path / "out", teacher.url, budget={"spending": limit / 4})
        charged = sum(teacher.count_paid().values())
        assert 0 < charged < IMAGES
        assert stopped.exit_code == 1
        assert stopped.spent <= limit * 1e6
        assert f"{IMAGES - charged} of {IMAGES} images are left" in stopped.as_text()
        assert len(read_rows(tmp_path / "out")) + stopped.waiting == charged
        started = time.monotonic()
        assert _collect(images, tmp_path / "out", teacher.url).exit_code == 0
        assert time.monotonic() - started < 200
        assert set(teacher.count_paid().values()) == {1}
    check_ids(tmp_path / "out", IMAGES)
