"""Passes with fields on Ray: killed and resumed, healed, with equal images, and predicted."""

import json
import zlib
from pathlib import Path
from typing import Any

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.forecast import make_forecast
from s4v_core.captioning.job import CaptionJob
from s4v_core.engines.fake_faults import Fault
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.runs.outcome import DONE
from tests.captioning.fields_run import THREE, build_job, write_fields
from tests.conftest import photo
from tests.faults.world import build_world, failpoint, fault_picture
from tests.flow.oracle import check_rows, fake_caption_of
from tests.flow.scripts import FAKE, run

TAGS = {"name": "tags", "prompt": "Tags?"}
LONG = {"name": "long", "prompt": "Describe {tags}"}
SHORT = {"name": "short", "prompt": "Short?"}


def _expect(data: bytes) -> dict[str, str]:
    """The fake engine's texts of the three fields above, without the project's code."""

    def answer(prompt: str) -> str:
        return f"{fake_caption_of(data)} Question {zlib.crc32(prompt.encode()):08x}."

    tags = answer("Tags?")
    return {"tags": tags, "long": answer(f"Describe {tags}"), "short": answer("Short?")}


def _write_images(folder: Path, images: dict[str, bytes]) -> Path:
    folder.mkdir()
    for name, data in images.items():
        (folder / name).write_bytes(data)
    return folder


def _run(job: CaptionJob) -> list[dict[str, Any]]:
    outcome = run_pass(job)
    assert outcome.exit_code == DONE
    return check_rows(Path(job.output))


@pytest.mark.usefixtures("local_ray")
def test_a_pass_heals_grows_and_refuses_other_fields(tmp_path: Path) -> None:
    pictures = {f"{n}.jpg": photo(n, (64, 48)) for n in range(6)}
    refused = fault_picture(Fault.REFUSAL)
    images = _write_images(tmp_path / "images", {**pictures, "refused.png": refused})
    fields = write_fields(tmp_path, [TAGS, SHORT, LONG])
    job = build_job(images, tmp_path / "out", fields=fields, unit_size=4)
    job = job.replace(settings=EngineSettings(fake_faults=True))
    rows = {row["image_id"]: row for row in _run(job)}
    assert rows["refused.png"]["reason"] == "tags:refusal"
    account = json.loads(rows["refused.png"]["fields"])
    assert [one["reason"] for one in account.values()] == ["refusal", "refusal", "needs:tags"]
    for name, data in pictures.items():
        assert {field: rows[name][field] for field in ("tags", "long", "short")} == _expect(data)
    healed = run_pass(job.replace(retry_errors=True))
    assert (healed.counts.ok, healed.counts.rejected, healed.figures.made) == (6, 1, 1)
    (images / "new.jpg").write_bytes(photo(50, (64, 48)))
    grown = {row["image_id"]: row for row in _run(job)}
    assert grown["new.jpg"]["long"] == _expect(photo(50, (64, 48)))["long"]
    assert "<b>short</b> A fake caption" in (tmp_path / "out" / "report.html").read_text()
    with pytest.raises(ConfigError, match="was made with fields"):
        run_pass(job.replace(fields=write_fields(tmp_path, [TAGS, SHORT])))


@pytest.mark.usefixtures("local_ray")
@pytest.mark.parametrize("dedupe", ["exact", "perceptual"])
def test_equal_images_share_all_their_fields(tmp_path: Path, dedupe: str) -> None:
    pictures = {f"{n}.jpg": photo(n % 3, (64, 48)) for n in range(9)}
    images = _write_images(tmp_path / "images", pictures)
    fields = write_fields(tmp_path, THREE)
    job = build_job(images, tmp_path / "out", fields=fields, dedupe=dedupe, captions_per_image=2)
    rows = _run(job)
    assert sum(row["twin_of"] is None for row in rows) == 3
    by_id = {row["image_id"]: row for row in rows}
    for row in rows:
        first = by_id[row["twin_of"] or row["image_id"]]
        for name in ("tags", "facts", "facts_values", "long", "fields", "more_captions"):
            assert row[name] == first[name] is not None
        assert row["attempts"] == (0 if row["twin_of"] else 3)


@pytest.mark.slow
@pytest.mark.usefixtures("local_ray")
def test_a_forecast_knows_fields(tmp_path: Path) -> None:
    images = _write_images(
        tmp_path / "images", {f"{n}.jpg": photo(n % 3, (64, 48)) for n in range(40)}
    )
    fields = write_fields(tmp_path, THREE)
    forecast = make_forecast(build_job(images, tmp_path / "out", fields=fields))
    assert (forecast.sampled, forecast.attempts, forecast.ok_share) == (40, 3.0, 1.0)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("name", "nth"), [("in_generate", 3), ("mid_put", 4)])
def test_a_killed_pass_resumes_with_all_fields_of_every_image_once(
    tmp_path: Path, name: str, nth: int
) -> None:
    world = build_world(tmp_path / "shards", images=160, shards=4)
    fields, output = write_fields(tmp_path, [TAGS, SHORT, LONG]), tmp_path / "out"
    flags = ["--input", str(world.shards), "--output", str(output), "--fields", fields, *FAKE]
    flags += ["--unit-size", "16", "--settings.max-num-seqs", "16"]
    codes = []
    while not codes or codes[-1] != 0:
        point = failpoint(name, nth, tmp_path)
        code, _, err = run("caption.py", *flags, cwd=tmp_path, **point)
        codes.append(code)
        assert len(codes) < 5, err
    assert len(list((tmp_path / "reached").iterdir())) >= nth
    rows = {row["image_id"]: row for row in check_rows(output)}
    assert rows.keys() == world.images.keys()
    for image_id, data in world.images.items():
        found = {field: rows[image_id][field] for field in ("tags", "long", "short")}
        assert found == _expect(data)
        assert rows[image_id]["caption"] == found["tags"]
    code, out, err = run("status.py", str(output), "--verify", cwd=tmp_path)
    assert code == 0, err
    assert "verified: 160 rows" in out
