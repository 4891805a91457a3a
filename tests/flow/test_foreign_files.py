"""No command changes or removes a file that it did not write, wherever its paths overlap."""

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from s4v_core.captioning.caption_pass import run_pass
from s4v_core.captioning.export import export_run
from s4v_core.captioning.forecast import make_forecast
from s4v_core.captioning.job import CaptionJob
from s4v_core.errors import S4VError
from s4v_core.model.conversion import convert
from s4v_core.recipes import FINETUNE
from s4v_core.records.captions import caption_units
from s4v_core.runs.status import read_status
from s4v_core.runs.verification import verify_run
from s4v_core.training.checks import check_stage
from tests.conftest import photo, write_tar

pytestmark = pytest.mark.usefixtures("local_ray")

Listing = dict[str, tuple[bytes, int]]

USERS = ("README.md", "report.html", "captions.json", "data.json", "DATA_CARD.md", "0.txt")
"""Files of a user beside the images, with names that commands write."""

RUNS = ("run.json", "stats.json", "forecast.json", "captions/unit-000000.parquet", "plan.parquet")
"""The same, with names that a run cannot do without: each alone, because it refuses them all."""

TRAINED = ("model/config.json", "checkpoints/1/x", "metrics.jsonl", "seen/x", "samples.arrow")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    root = tmp_path / "in"
    members = {f"{n}.jpg": photo(n, (40, 30)) for n in range(4)}
    write_tar(root / "0.tar", members)
    write_tar(root / "sub" / "00000.tar", members)
    for name, data in members.items():
        (root / name).write_bytes(data)
        (root / "sub" / name).write_bytes(data)
    for name in USERS:
        (root / name).write_text(f"the user's own {name}")
    (tmp_path / "link").symlink_to(root)
    return root


def _list(root: Path) -> Listing:
    return {
        str(path.relative_to(root)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in root.rglob("*")
        if path.is_file()
    }


def _try(command: Callable[[], object]) -> str:
    """Run a command, which may refuse; returns how it ended."""
    try:
        command()
    except S4VError as error:
        return f"refused: {error}"
    return "done"


def _job(images: Path | str, output: Path | str) -> CaptionJob:
    return CaptionJob(input=(str(images),), output=str(output), model="none", engine="fake")


def _check_unchanged(root: Path, before: Listing, what: str) -> None:
    after = _list(root)
    for name, found in before.items():
        assert after.get(name) == found, f"{what} changed {name}"


@pytest.mark.parametrize("output", ["out", "in/out", "in", "link", "in/../in/sub"])
def test_passes_forecasts_and_exports_leave_the_input_alone(folder: Path, output: str) -> None:
    root, place = folder.parent, folder.parent / output
    before = _list(folder)
    assert _try(lambda: run_pass(_job(folder, place))) == "done"
    _check_unchanged(folder, before, "caption")
    assert _try(lambda: run_pass(_job(folder, place))) == "done"
    assert _try(lambda: run_pass(_job(folder, place).replace(retry_errors=True))) == "done"
    assert len(list((place / "captions").glob("*.parquet"))) == 3
    _try(lambda: make_forecast(_job(folder, place).replace(rate=9.0)))
    _check_unchanged(folder, before, "--plan")
    units = caption_units(str(place))
    assert read_status(units).counts.ok == 16
    assert verify_run(units).is_sound
    targets = (
        "in/",
        "in/0.tar",
        "in/sub/",
        "in/captions.json",
        "in/data.json",
        "link/",
        "in/0.jpg",
    )
    targets += ("in/sub/../", f"{output}/", f"{output}/captions/", f"{output}/plan.parquet")
    ended = []
    for to, images, form in itertools.product(targets, (False, True), ("webdataset", "files")):
        spelled = f"{root}/{to}"
        ended.append(
            _try(lambda: export_run(str(place), spelled, with_images=images, form=form))  # noqa: B023
        )
        _check_unchanged(folder, before, f"export to {to}")
    assert all(end.startswith("refused") for end in ended), ended
    assert _try(lambda: export_run(str(place), f"{root}/elsewhere.json")) == "done"


@pytest.mark.parametrize("name", RUNS)
def test_a_folder_with_files_of_a_runs_names_is_refused_or_kept(folder: Path, name: str) -> None:
    path = folder / "mine" / name
    path.parent.mkdir(parents=True)
    path.write_text("the user's own")
    before = _list(folder)
    ended = _try(lambda: run_pass(_job(folder, folder / "mine")))
    assert ended.startswith("refused") or name == "forecast.json"  # which only --plan writes
    _try(lambda: make_forecast(_job(folder, folder / "mine").replace(rate=9.0)))
    _check_unchanged(folder, before, "a run")


@pytest.mark.parametrize("name", [*TRAINED, "run.json"])
def test_training_refuses_a_folder_with_files_of_its_names(
    folder: Path, checkpoint: Path, name: str
) -> None:
    path = folder / "trained" / name
    path.parent.mkdir(parents=True)
    path.write_text("the user's own")
    data = folder.parent / "data.json"
    data.write_text(json.dumps([]))
    before = _list(folder)
    job = FINETUNE["demo"].replace(
        demo_scenes=0, data=(str(data),), output=str(folder / "trained"), model=str(checkpoint)
    )
    assert _try(lambda: check_stage(job)).startswith("refused")
    assert _list(folder) == before


def test_a_conversion_refuses_a_folder_that_exists(folder: Path, checkpoint: Path) -> None:
    before = _list(folder)
    ended = _try(lambda: convert(checkpoint, folder, None, lambda name: None))
    assert ended.startswith("refused")
    assert _list(folder) == before
