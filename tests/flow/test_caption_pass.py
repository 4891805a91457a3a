"""The whole pass on a real local Ray, with the fake engine, which computes captions from pixels."""

import json
import os
import tarfile
import time
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core import storage
from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.checks import check_job
from s4v_core.captioning.export import export_run
from s4v_core.captioning.forecast import make_forecast, spread_evenly
from s4v_core.captioning.job import CaptionJob
from s4v_core.captioning.planning import index_input
from s4v_core.captioning.row_checks import check_captions
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError, InputError, StorageError
from s4v_core.images.policy import DecodeConfig
from s4v_core.records.captions import caption_units
from s4v_core.runs.outcome import DONE, INCOMPLETE_INPUT
from s4v_core.runs.status import read_status
from s4v_core.runs.verification import verify_run
from tests.conftest import SHARED_DATA, photo, write_tar
from tests.flow.oracle import check_rows, fake_caption_of, read_rows
from tests.records.old_plan import make_plan_old

pytestmark = pytest.mark.usefixtures("local_ray")


def _job(images: Path | str, output: Path | str, **changes: object) -> CaptionJob:
    return CaptionJob(
        input=(str(images),),
        output=str(output),
        model="none",
        engine="fake",
        decode=DecodeConfig(reduced_jpeg=False),
        **changes,  # type: ignore[arg-type]
    )


@pytest.fixture(scope="module")
def captions(photos: dict[str, bytes]) -> dict[str, str]:
    """The fake engine's caption of each photograph, computed without the project's code."""
    return {Path(name).stem: fake_caption_of(data) for name, data in photos.items()}


def _captions_by_key(rows: list[dict]) -> dict[str, str]:
    return {Path(row["image_id"]).name.removesuffix(".jpg"): row["caption"] for row in rows}


@pytest.fixture
def shards(tmp_path: Path, photos: dict[str, bytes]) -> Path:
    names = list(photos)
    for shard in range(4):
        members = {name: photos[name] for name in names[shard * 10 : shard * 10 + 10]}
        write_tar(tmp_path / "shards" / f"{shard:04d}.tar", members)
    return tmp_path / "shards"


def test_tar_shards_become_one_row_per_image_with_its_own_caption(
    shards: Path, tmp_path: Path, captions: dict[str, str]
) -> None:
    outcome = run_pass(_job(f"{shards}/{{0000..0003}}.tar", tmp_path / "out"))
    rows = check_rows(tmp_path / "out")
    assert _captions_by_key(rows) == captions
    assert outcome.exit_code == DONE
    assert {row["image_id"].split("/")[0] for row in rows} == {f"{n:04d}" for n in range(4)}
    assert all(row["attempts"] == 1 and row["finish_reason"] == "stop" for row in rows)
    assert {"run.json", "stats.json", "report.html", "plan.parquet", "captions"} <= set(
        os.listdir(tmp_path / "out")
    )


@pytest.mark.parametrize("layout", ["folder", "parquet", "json", "s3"])
def test_every_other_input_gives_the_same_captions(
    layout: str,
    tmp_path: Path,
    photos: dict[str, bytes],
    captions: dict[str, str],
    request: pytest.FixtureRequest,
) -> None:
    source = tmp_path / "images"
    source.mkdir()
    for name, data in photos.items():
        (source / name).write_bytes(data)
    job = _job(source, tmp_path / "out")
    if layout == "parquet":
        table = pa.table({"id": list(photos), "image": list(photos.values())})
        pq.write_table(table, tmp_path / "photos.parquet", row_group_size=16)
        job = _job(tmp_path / "photos.parquet", tmp_path / "out")
    elif layout == "json":
        records = [{"id": str(n), "image": name} for n, name in enumerate(photos)]
        (tmp_path / "data.json").write_text(json.dumps(records))
        job = _job(tmp_path / "data.json", tmp_path / "out", image_root=str(source))
    elif layout == "s3":
        bucket = request.getfixturevalue("bucket")
        tar = write_tar(tmp_path / "0000.tar", photos)
        storage.replace(f"{bucket}/shards/0000.tar", tar.read_bytes())
        outcome = run_pass(_job(f"{bucket}/shards/0000.tar", f"{bucket}/out"))
        assert outcome.exit_code == DONE
        rows = caption_units(f"{bucket}/out").read(0).to_pylist()
        assert _captions_by_key(rows) == captions
        assert storage.stat(f"{bucket}/out/report.html") is not None
        return
    assert run_pass(job).exit_code == DONE
    assert _captions_by_key(check_rows(tmp_path / "out")) == captions


def _list_brakes() -> set[int]:
    family = psutil.Process().children(recursive=True)
    return {process.pid for process in family if "_BrakeActor" in " ".join(process.cmdline())}


def test_a_run_leaves_no_process_behind(shards: Path, tmp_path: Path) -> None:
    before = _list_brakes()
    assert run_pass(_job(shards, tmp_path / "out")).exit_code == DONE
    deadline = time.monotonic() + 20
    while not _list_brakes() <= before:
        assert time.monotonic() < deadline, "its brake is still there"
        time.sleep(0.1)


def test_the_same_job_again_does_nothing_and_a_lost_unit_is_made_again(
    shards: Path, tmp_path: Path, captions: dict[str, str]
) -> None:
    job = _job(shards, tmp_path / "out")
    run_pass(job)
    files = sorted((tmp_path / "out" / "captions").iterdir())
    before = {file: file.stat().st_mtime_ns for file in files}
    started = time.monotonic()
    again = run_pass(job)
    assert time.monotonic() - started < 5
    assert (again.figures.made, again.found_done, again.exit_code) == (0, 40, DONE)
    files[2].unlink()
    (tmp_path / "out" / "report.html").unlink()
    third = run_pass(job)
    assert (third.figures.made, third.found_done) == (10, 30)
    (tmp_path / "out" / "report.html").unlink()
    run_pass(job)
    assert (tmp_path / "out" / "report.html").exists()
    assert _captions_by_key(check_rows(tmp_path / "out")) == captions
    kept = {file: file.stat().st_mtime_ns for file in files if file != files[2]}
    assert kept.items() <= before.items()


def test_bad_images_are_rows_with_reasons_among_good_ones(
    tmp_path: Path, photos: dict[str, bytes]
) -> None:
    bad = {
        "empty.jpg": (b"", "not_an_image"),
        "page.jpg": (b"<html>404</html>", "not_an_image"),
        "cut.jpg": (photo(99)[:1500], "truncated"),
        "paper.pdf": (b"%PDF-1.7 ...", "format_denied"),
    }
    members = {name: data for name, (data, _) in bad.items()} | photos
    write_tar(tmp_path / "mixed.tar", members)
    outcome = run_pass(_job(tmp_path / "mixed.tar", tmp_path / "out"))
    rows = {row["image_id"]: row for row in check_rows(tmp_path / "out")}
    assert outcome.exit_code == DONE
    assert (outcome.counts.ok, outcome.counts.error) == (40, 4)
    for name, (_, reason) in bad.items():
        row = rows[f"mixed/{Path(name).stem}"]
        assert (row["status"], row["reason"], row["caption"]) == ("error", reason, None)
        assert row["attempts"] == 0
    assert outcome.counts.reasons == {"not_an_image": 2, "truncated": 1, "format_denied": 1}


def test_a_run_of_version_0_1_is_resumed_counted_and_verified(
    shards: Path, tmp_path: Path, captions: dict[str, str]
) -> None:
    job, output = _job(shards, tmp_path / "out"), tmp_path / "out"
    run_pass(job)
    make_plan_old(output)
    next((output / "captions").iterdir()).unlink()
    outcome = run_pass(job)
    assert (outcome.figures.made, outcome.found_done, outcome.exit_code) == (10, 30, DONE)
    assert _captions_by_key(check_rows(output)) == captions
    assert verify_run(caption_units(str(output)), check_captions).is_sound
    assert export_run(str(output), str(tmp_path / "captions.json")).rows == 40


def test_a_damaged_shard_keeps_its_readable_images_and_is_named(
    shards: Path, tmp_path: Path
) -> None:
    whole = (shards / "0001.tar").read_bytes()
    (shards / "0001.tar").write_bytes(whole[: len(whole) // 2])
    outcome = run_pass(_job(shards, tmp_path / "out"))
    rows = check_rows(tmp_path / "out")
    assert outcome.exit_code == INCOMPLETE_INPUT
    assert 31 <= len(rows) < 40
    assert [s["uri"] for s in outcome.counts.damaged] == [str(shards / "0001.tar")]
    assert "damaged shard" in read_status(caption_units(str(tmp_path / "out"))).as_text()


def test_other_settings_on_the_same_output_are_refused_and_touch_nothing(
    shards: Path, tmp_path: Path
) -> None:
    run_pass(_job(shards, tmp_path / "out"))

    def listing() -> dict[str, int]:
        return {str(p): p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*")}

    before = listing()
    for changes in ({"prompt": "What?"}, {"limit": 5}):
        with pytest.raises(ConfigError, match="was made with"):
            run_pass(_job(shards, tmp_path / "out", **changes))
    assert listing() == before


def test_repeated_ids_and_files_that_are_no_images_are_reported(tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_tar(tmp_path / folder / "0000.tar", {"a.jpg": photo(1), "mask.npy": b"x"})
    inputs = (str(tmp_path / "one"), str(tmp_path / "two"))
    job = _job("", tmp_path / "out").replace(input=inputs)
    text = run_pass(job).as_text()
    assert "2 members, files or records are no images" in text
    assert [r["image_id"] for r in check_rows(tmp_path / "out")] == ["0000/a", "two/0000/a"]


def test_a_limited_run_does_not_grow_and_says_so(shards: Path, tmp_path: Path) -> None:
    run_pass(_job(shards, tmp_path / "out", limit=7))
    write_tar(shards / "0004.tar", {"new.jpg": photo(500)})
    outcome = run_pass(_job(shards, tmp_path / "out", limit=7))
    assert outcome.exit_code == INCOMPLETE_INPUT
    assert "no longer what was planned" in outcome.as_text()
    assert len(check_rows(tmp_path / "out")) == 7


def test_an_empty_input_writes_nothing(tmp_path: Path) -> None:
    write_tar(tmp_path / "empty.tar", {})
    with pytest.raises(InputError, match="holds no images"):
        run_pass(_job(tmp_path / "empty.tar", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_retry_errors_heals_rows_in_place(tmp_path: Path, photos: dict[str, bytes]) -> None:
    source = tmp_path / "images"
    source.mkdir()
    names = list(photos)
    records = [{"id": str(n), "image": name} for n, name in enumerate(names)]
    (tmp_path / "data.json").write_text(json.dumps(records))
    for name in names[:-3]:
        (source / name).write_bytes(photos[name])
    job = _job(tmp_path / "data.json", tmp_path / "out", image_root=str(source))
    assert run_pass(job).counts.reasons == {"not_found": 3}
    kept = {row["image_id"]: row for row in read_rows(tmp_path / "out") if row["status"] == "ok"}
    for name in names:
        (source / name).write_bytes(photos[name])
    healed = run_pass(job.replace(retry_errors=True))
    assert (healed.counts.ok, healed.counts.error, healed.figures.made) == (40, 0, 3)
    rows = {row["image_id"]: row for row in check_rows(tmp_path / "out")}
    assert all(rows[name] == row for name, row in kept.items())


def test_a_limit_takes_the_first_images_and_prompts_are_recorded(
    shards: Path, tmp_path: Path
) -> None:
    (tmp_path / "prompts.txt").write_text("What is it?\n\nDescribe it.\n")
    run_pass(_job(shards, tmp_path / "out", limit=15, prompts=str(tmp_path / "prompts.txt")))
    rows = check_rows(tmp_path / "out")
    assert len(rows) == 15
    assert {row["prompt"] for row in rows} == {"What is it?", "Describe it."}


def test_exports_hold_every_caption_and_are_the_same_bytes_every_time(
    shards: Path, tmp_path: Path, captions: dict[str, str]
) -> None:
    run_pass(_job(shards, tmp_path / "out"))
    for ending in ("json", "jsonl", "parquet", "tar"):
        files = [tmp_path / f"{n}.{ending}" for n in (1, 2)]
        for file in files:
            assert export_run(str(tmp_path / "out"), str(file)).rows == 40
        assert files[0].read_bytes() == files[1].read_bytes()
    records = json.loads((tmp_path / "1.json").read_text())
    answers = {Path(r["image"]).name: r["conversations"][1]["value"] for r in records}
    assert {Path(name).stem: text for name, text in answers.items()} == captions
    assert all(r["conversations"][0]["value"].startswith("<image>\n") for r in records)
    assert records[0].keys() == {"id", "image", "conversations"}
    lines = [json.loads(line) for line in (tmp_path / "1.jsonl").open()]
    assert {Path(line["image_id"]).name: line["caption"] for line in lines} == captions
    assert pq.read_table(tmp_path / "1.parquet").num_rows == 40
    with pytest.raises(ConfigError, match=r"allowed names ending in"):
        export_run(str(tmp_path / "out"), str(tmp_path / "x.csv"))


def test_sidecars_lie_beside_their_shards_under_the_same_names_keys_and_order(
    shards: Path, tmp_path: Path, captions: dict[str, str]
) -> None:
    run_pass(_job(shards, tmp_path / "out"))
    assert export_run(str(tmp_path / "out"), f"{tmp_path}/sidecars/").rows == 40
    for shard in shards.glob("*.tar"):
        with tarfile.open(shard) as images, tarfile.open(tmp_path / "sidecars" / shard.name) as own:
            keys = [Path(name).stem for name in images.getnames()]
            assert [Path(n).stem for n in own.getnames() if n.endswith(".json")] == keys
            for key in keys:
                assert own.extractfile(f"{key}.txt").read().decode() == captions[key]
                assert json.load(own.extractfile(f"{key}.json"))["status"] == "ok"


def test_sidecars_by_shard_are_refused_for_images_outside_shards(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.jpg").write_bytes(photo(1))
    run_pass(_job(tmp_path / "images", tmp_path / "out"))
    with pytest.raises(ConfigError, match=r"is no tar; name a file\.tar instead"):
        export_run(str(tmp_path / "out"), f"{tmp_path}/sidecars/")


def test_a_forecast_measures_a_sample_and_does_not_affect_the_run(
    shards: Path, tmp_path: Path
) -> None:
    job = _job(shards, tmp_path / "out", plan=True)
    found = make_forecast(job)
    assert (found.images, found.sampled) == (40, 40)
    assert found.images_per_s > 0
    assert "images/s" in found.as_text()
    assert not (tmp_path / "out" / "plan.parquet").exists()
    assert run_pass(job.replace(plan=False)).counts.ok == 40


def test_a_sample_too_short_to_measure_a_rate_is_followed_by_a_larger_one(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("s4v_core.captioning.forecast.LEAST_SAMPLE", 4)
    job = _job(shards, tmp_path / "out", plan=True, settings=EngineSettings(max_num_seqs=1))
    assert make_forecast(job).sampled == 40
    monkeypatch.setattr("s4v_core.captioning.forecast.LEAST_SAMPLE_S", 0.0)
    assert make_forecast(job).sampled == 4


def test_a_sample_leaves_out_whole_shards_of_an_input_of_many_small_ones(tmp_path: Path) -> None:
    for shard in range(12):
        write_tar(tmp_path / "shards" / f"{shard:02d}.tar", {f"{shard}.jpg": photo(shard)})
    checked = check_job(_job(tmp_path / "shards", tmp_path / "out"))
    with index_input(checked) as (spool, _):
        ids = spread_evenly(checked, spool, 3)["image_id"].to_pylist()
    assert ids == ["00/0", "04/4", "08/8"]


def test_a_report_shows_captions_and_loads_nothing(shards: Path, tmp_path: Path) -> None:
    run_pass(_job(shards, tmp_path / "out", prompt="<script>alert(1)</script>"))
    page = (tmp_path / "out" / "report.html").read_text()
    assert page.count('<img src="data:image/jpeg;base64,') == 40
    assert "default-src 'none'" in page
    assert "<script>alert" not in page
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.skipif(not (SHARED_DATA / "bad_images").exists(), reason="needs ../shared/data")
def test_the_bad_images_beside_fifty_photographs(tmp_path: Path) -> None:
    source = tmp_path / "images"
    source.mkdir()
    good = sorted((SHARED_DATA / "photos").glob("*.jpg"))[:50]
    bad = [p for p in (SHARED_DATA / "bad_images").iterdir() if p.name != "manifest.csv"]
    for path in (*good, *bad):
        (source / path.name).write_bytes(path.read_bytes())
    outcome = run_pass(_job(source, tmp_path / "out"))
    rows = {row["image_id"]: row for row in check_rows(tmp_path / "out")}
    assert len(rows) == 193
    assert outcome.exit_code == DONE
    assert all(rows[path.name]["status"] == "ok" for path in good)
    assert rows["bomb_10K-gray.png"]["reason"] == "too_many_pixels"


def test_an_input_that_names_no_images_is_refused_while_it_is_indexed(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    with pytest.raises(InputError, match="no image column: found text"):
        run_pass(_job(tmp_path / "a.parquet", tmp_path / "out"))


def test_a_foreign_file_in_place_of_a_unit_is_reported_and_kept(
    shards: Path, tmp_path: Path
) -> None:
    job = _job(shards, tmp_path / "out")
    run_pass(job)
    unit = tmp_path / "out" / "captions" / "unit-000001.parquet"
    unit.write_bytes(b"not ours")
    with pytest.raises(StorageError, match="no complete Parquet"):
        run_pass(job)
    assert unit.read_bytes() == b"not ours"


@pytest.mark.parametrize(("dedupe", "captioned"), [("off", 40), ("exact", 20), ("perceptual", 10)])
def test_equal_images_are_captioned_once_and_name_their_twin(
    tmp_path: Path, dedupe: str, captioned: int
) -> None:
    members = {}
    for number in range(10):
        jpeg, png = photo(number), photo(number, kind="PNG")
        members |= {
            f"{number}_{name}": data
            for name, data in zip("abcd", (jpeg, jpeg, png, png), strict=True)
        }
    items = list(members.items())
    for shard in range(2):  # equal images are also in different shards
        write_tar(tmp_path / "shards" / f"{shard}.tar", dict(items[shard::2]))
    outcome = run_pass(
        _job(tmp_path / "shards", tmp_path / "out", dedupe=dedupe, unit_size=5, engines=2)
    )
    rows = {row["image_id"]: row for row in check_rows(tmp_path / "out")}
    assert outcome.figures.attempts == captioned
    firsts = [row for row in rows.values() if row["twin_of"] is None]
    assert len(firsts) == captioned
    for row in rows.values():
        assert row["status"] == "ok"
        if row["twin_of"]:
            assert row["attempts"] == 0
            assert row["caption"] == rows[row["twin_of"]]["caption"]
            number = Path(row["image_id"]).name.split("_")[0]
            assert Path(row["twin_of"]).name.split("_")[0] == number
            if dedupe == "exact":
                assert row["image_sha256"] == rows[row["twin_of"]]["image_sha256"]


def test_several_captions_of_an_image_are_in_one_row(shards: Path, tmp_path: Path) -> None:
    run_pass(_job(shards, tmp_path / "out", limit=5, captions_per_image=3))
    for row in check_rows(tmp_path / "out"):
        assert row["more_captions"] == [row["caption"]] * 2  # the fake engine draws nothing


def test_a_run_leaves_a_card_and_compares_itself_with_its_plan(
    shards: Path, tmp_path: Path
) -> None:
    job = _job(shards, tmp_path / "out", licences=("0001=CC BY 4.0", "CC0"), price_per_hour=2.0)
    found = make_forecast(job.replace(plan=True))
    assert found.cost is not None
    assert found.output_tokens > 10
    assert "engine-days, cost" in found.as_text()
    outcome = run_pass(job)
    assert "planned " in outcome.as_text()
    card = (tmp_path / "out" / "README.md").read_text()
    assert "| 0001 | CC BY 4.0 |" in card
    assert "| all others | CC0 |" in card
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        *(
            ".receipts",
            "README.md",
            "captions",
            "forecast.json",
            "plan.parquet",
            "report.html",
            "run.json",
        ),
        "stats.json",
    }


def test_a_given_rate_needs_no_engine(shards: Path, tmp_path: Path) -> None:
    found = make_forecast(_job(shards, tmp_path / "out", plan=True, rate=7.0, engines=4))
    assert (found.sampled, found.images_per_s) == (0, 28.0)
    assert "40 images at 28 images/s on 4 engines" in found.as_text()
