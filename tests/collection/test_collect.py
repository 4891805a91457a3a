"""Collecting from teachers with all the faults of real endpoints: every image exactly one row."""

import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from s4v_core.collection.collect_pass import CollectOutcome, run_collection
from s4v_core.collection.job import Budget, CollectJob, Endpoint
from s4v_core.errors import ConfigError, EngineError
from tests.collection.collected_run import (
    FOLDERS,
    INPUT_PRICE,
    OUTPUT_PRICE,
    check_ids,
    collect,
    list_flags,
    open_teacher,
    read_rows,
    write_images,
)
from tests.collection.teacher_server import OUTPUT_TOKENS, PROMPT_TOKENS, Faults
from tests.flow.scripts import kill, run, start

IMAGES = 96
STORM = {
    "busy": 0.06,
    "crowded": 0.06,
    "broken": 0.06,
    "malformed": 0.06,
    "cut": 0.06,
    "empty": 0.06,
    "slow": 0.03,
}
FINAL = {"refusal": 0.08, "filter": 0.08, "filtered": 0.08, "sorry": 0.08, "blank": 0.05}
REASONS = {
    "model_refusal": "refusal",
    "content_filter": "filter",
    "refusal": "sorry",
    "empty": "blank",
}
COST = round(PROMPT_TOKENS * INPUT_PRICE + OUTPUT_TOKENS * OUTPUT_PRICE)


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("images") / "data", IMAGES)


def _collect(images: Path, output: Path, *urls: str, **changes: Any) -> CollectOutcome:
    budget = {"input_price": INPUT_PRICE, "output_price": OUTPUT_PRICE} | changes.pop("budget", {})
    about = {"unit_size": 16, "budget": Budget(**budget)} | changes
    endpoint = Endpoint(url=urls, patience_s=about.pop("patience_s", 240.0), concurrency=16)
    job = CollectJob(
        input=(str(images),), output=str(output), model="teacher", endpoint=endpoint, **about
    )
    return run_collection(job)


def check_rows(rows: list[dict[str, Any]]) -> None:
    """Each row says what it cost, who gave it, by which prompt, and why it has no caption."""
    for row in rows:
        assert row["prompt_parts"].startswith("head + ")
        assert row["source"] in (*FOLDERS, "holiday")
        if row["status"] == "ok":
            assert row["served_model"] == "teacher-2026"
            assert row["cost_micro"] == COST
        else:
            assert row["status"] == "rejected"
            assert row["reason"] in REASONS
        assert row["endpoint"].startswith("http://127.0.0.1:")


@pytest.mark.usefixtures("local_ray")
def test_every_fault_of_a_teacher_leaves_every_image_exactly_one_row(
    images: Path, tmp_path: Path
) -> None:
    faults = Faults(first=STORM, always=FINAL, is_strict=True)
    with open_teacher(tmp_path / "a", faults) as first, open_teacher(tmp_path / "b") as second:
        outcome = _collect(images, tmp_path / "out", first.url, second.url, workers=2)
        assert outcome.exit_code == 0
        rows = check_ids(tmp_path / "out", IMAGES)
        check_rows(rows)
        paid = first.count_paid() + second.count_paid()
        assert max(paid.values()) == 1
        filtered = sum(row["cost_micro"] == 0 for row in rows)  # not charged: refused as HTTP 400
        assert sum(paid.values()) == IMAGES - filtered
        # The strict one's rows name what it did not take.
        engines = {row["engine"] for row in rows if row["endpoint"] == first.url}
        assert any("max_tokens as max_completion_tokens" in engine for engine in engines)
        assert {row["endpoint"] for row in rows} == {first.url, second.url}
        # Again: everything is done, and nothing is asked.
        asked = len(first.read_log()) + len(second.read_log())
        again = _collect(images, tmp_path / "out", first.url, second.url)
        assert again.outcome.found_done == IMAGES
        assert len(first.read_log()) + len(second.read_log()) == asked
    assert not list((tmp_path / "out" / "answers").rglob("*.json"))


@pytest.mark.usefixtures("local_ray")
def test_each_kind_of_refusal_is_a_reject_with_its_reason_and_is_asked_again_on_request(
    images: Path, tmp_path: Path
) -> None:
    faults = Faults(always={"refusal": 0.2, "filter": 0.2, "filtered": 0.1, "sorry": 0.2})
    with open_teacher(tmp_path / "a", faults) as teacher:
        _collect(images, tmp_path / "out", teacher.url)
        before = {row["image_id"]: row for row in check_ids(tmp_path / "out", IMAGES)}
        found = Counter(row["reason"] for row in before.values() if row["status"] == "rejected")
        assert set(found) == {"model_refusal", "content_filter", "refusal"}
        assert all(row["status"] in ("ok", "rejected") for row in before.values())
        spent = sum(row["cost_micro"] for row in before.values())
    with open_teacher(tmp_path / "b") as teacher:
        outcome = _collect(images, tmp_path / "out", teacher.url, retry_errors=True)
        assert sum(teacher.count_paid().values()) == sum(found.values())
    after = check_ids(tmp_path / "out", IMAGES)
    assert {row["status"] for row in after} == {"ok"}
    for row in after:
        if before[row["image_id"]]["status"] == "ok":
            assert row["caption"] == before[row["image_id"]]["caption"]
    # What was paid for rows that are replaced now was spent all the same.
    assert outcome.spent == spent + sum(found.values()) * COST


@pytest.mark.usefixtures("local_ray")
def test_a_spending_limit_stops_cleanly_says_what_is_left_and_a_higher_one_goes_on(
    images: Path, tmp_path: Path
) -> None:
    limit = COST * 40 / 1e6
    with open_teacher(tmp_path / "a") as teacher:
        stopped = _collect(
            images, tmp_path / "out", teacher.url, budget={"spending": limit}, workers=2
        )
        charged = sum(teacher.count_paid().values())
        assert stopped.exit_code == 1
        assert charged * COST == stopped.spent <= limit * 1e6 + 2 * COST
        assert charged >= 10  # a request is reserved for its longest answer; it goes on until then
        text = stopped.as_text()
        assert "the spending limit is reached" in text
        assert f"{IMAGES - charged} of {IMAGES} images are left to ask about" in text
        done = len(read_rows(tmp_path / "out"))
        assert done + stopped.waiting == charged

        outcome = _collect(images, tmp_path / "out", teacher.url, budget={"spending": 10.0})
        assert outcome.exit_code == 0
        assert set(teacher.count_paid().values()) == {1}
        assert outcome.spent == IMAGES * COST
    rows = check_ids(tmp_path / "out", IMAGES)
    assert sum(row["cost_micro"] for row in rows) == IMAGES * COST


@pytest.mark.usefixtures("local_ray")
def test_pictures_are_scaled_to_what_the_teacher_uses(tmp_path: Path) -> None:
    import base64
    import io

    from PIL import Image

    from tests.conftest import photo
    from tests.engines.weather_endpoint import complete, open_endpoint

    folder = tmp_path / "images"
    folder.mkdir()
    sizes = {"wide": (3000, 1000), "tall": (1500, 3000), "small": (300, 200), "flat": (4000, 100)}
    for name, size in sizes.items():
        (folder / f"{name}.jpg").write_bytes(photo(1, size))
    with open_endpoint() as endpoint:
        endpoint.reply = lambda body, text: (
            200,
            complete(body, "A long enough description of a picture with colours."),
        )
        assert _collect(folder, tmp_path / "out", endpoint.url).exit_code == 0
        found = set()
        for body in endpoint.requests:
            part = body["messages"][0]["content"][0]["image_url"]
            assert part["detail"] == "high"
            assert part["url"].startswith("data:image/jpeg;base64,")
            data = base64.b64decode(part["url"].partition(",")[2])
            found.add(Image.open(io.BytesIO(data)).size)
    assert found == {(2048, 683), (768, 1536), (300, 200), (2048, 51)}
    widths = {row["image_id"]: row["width"] for row in read_rows(tmp_path / "out")}
    assert sorted(widths.values()) == sorted(size[0] for size in sizes.values())


def test_a_kill_pays_for_no_image_twice_and_keys_go_to_their_endpoints(
    images: Path, tmp_path: Path
) -> None:
    output, concurrency = tmp_path / "out", 4
    with (
        open_teacher(tmp_path / "a", Faults(delay_s=0.3)) as first,
        open_teacher(tmp_path / "b", Faults(delay_s=0.3)) as second,
    ):
        urls = [first.url, f"{second.url}=SECOND_KEY"]
        more = ["--unit-size", "16", "--endpoint.concurrency", str(concurrency)]
        flags = list_flags(images, output, urls, *more)
        keys = {"OPENAI_API_KEY": "one", "SECOND_KEY": "two"}
        process = start("collect.py", *flags, cwd=tmp_path, **keys)
        deadline = time.monotonic() + 200
        while len(first.count_paid()) + len(second.count_paid()) < 40:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        kill(process)
        kept = len(list((output / "answers").rglob("*.json")))
        assert len(read_rows(output)) + kept > 0
        code, out, err = collect(tmp_path, flags, **keys)
        assert code == 0, err
        paid = first.count_paid() + second.count_paid()
        assert len(paid) == IMAGES
        # Only what was on its way when the process died can have been charged twice.
        assert sum(paid.values()) - IMAGES <= 2 * concurrency
        assert {one["key"] for one in first.read_log() if one["key"]} == {"Bearer one"}
        assert {one["key"] for one in second.read_log() if one["key"]} == {"Bearer two"}
    check_ids(output, IMAGES)
    assert "96 of 96 images" in out
    text = "".join(path.read_text() for path in output.glob("*.json"))
    assert '"two"' not in text
    assert "SECOND_KEY" in text
    code, status, _ = run("status.py", str(output), "--verify", cwd=tmp_path)
    assert code == 0
    assert "96 collected" in status or "96 ok" in status


@pytest.mark.usefixtures("local_ray")
def test_a_wrong_endpoint_and_other_settings_are_one_sentence(images: Path, tmp_path: Path) -> None:
    with pytest.raises(EngineError, match=r"--endpoint\.") as found:
        _collect(images, tmp_path / "out", "http://127.0.0.1:9/v1", limit=4, patience_s=2.0)
    assert "--settings" not in str(found.value)
    with pytest.raises(ConfigError, match=r"prompts\.0\.weight 0\.9, found 0\.5"):
        _collect(images, tmp_path / "out", "http://127.0.0.1:9/v1", limit=4, aesthetic_share=0.5)
