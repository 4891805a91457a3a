"""Drawing through the whole flow, with real pipelines: killed at any time, every image the same."""

import contextlib
import hashlib
import json
import os
import random
import subprocess
import tarfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core.engines.choice import choose_painter
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError, InputError
from s4v_core.records.unit_shards import UnitShards
from s4v_core.records.units import UnitFolder
from s4v_core.runs.verification import verify_run
from s4v_core.synthesis.painting import PAINTED, PromptToDraw, paint_prompts
from s4v_core.synthesis.painting_checks import build_painting_checks
from tests.cluster.head import BIN, driver_variables, head_node
from tests.flow.scripts import kill
from tests.synthesis.tiny_painter import (
    BATCH,
    PAINTING,
    POISON,
    UNIT,
    build_strict_checker,
    build_tiny_painter,
    make_prompts,
    start_painting,
)

pytestmark = pytest.mark.timeout(1800)

IMAGES, GATE_IMAGES, KILLS = 200, 48, 10


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_painter(tmp_path_factory.mktemp("painter") / "model")


def _read_rows(output: Path) -> list[dict[str, Any]]:
    files = sorted((output / "painted").glob("*.parquet"))
    return pa.concat_tables([pq.read_table(file) for file in files]).to_pylist() if files else []


def _read_members(output: Path) -> dict[str, bytes]:
    """Every file of every tar by its name; a name that occurs twice is an error."""
    found: dict[str, bytes] = {}
    for path in sorted((output / "images").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                content = tar.extractfile(member)
                assert content
                assert member.name not in found
                found[member.name] = content.read()
    return found


def _prove(output: Path, count: int, poisoned: set[int] = frozenset()) -> dict[str, bytes]:  # type: ignore[assignment]
    """Check that every prompt has one row and every ok row its image; returns the images."""
    units = UnitFolder(str(output), PAINTED)
    assert verify_run(units, build_painting_checks(str(output))).is_sound
    rows = {row["image_id"]: row for row in _read_rows(output)}
    assert len(rows) == len(_read_rows(output)) == count
    members = _read_members(output)
    bad = {f"color/{n:06d}" for n in poisoned}
    for name, row in rows.items():
        if name in bad:
            assert (row["status"], row["reason"], row["shard"]) == ("error", "worker_died", None)
            continue
        assert row["status"] == "ok", row
        png = members[f"{name}.png"]
        assert row["image_sha256"] == hashlib.sha256(png).hexdigest()
        about = json.loads(members[f"{name}.json"])
        assert {one: row[one] for one in about} == about
        assert (row["steps"], row["guidance"], row["width"]) == (2, 2.0, 32)
    images = {name: data for name, data in members.items() if name.endswith(".png")}
    assert len(images) == count - len(bad)
    return images


def _wait_for_units(output: Path, count: int, driver: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 600
    while len(list((output / "painted").glob("*.parquet"))) < count:
        assert driver.poll() is None, driver.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def _finish(driver: subprocess.Popen[str]) -> str:
    try:
        out, err = driver.communicate(timeout=1200)
    finally:
        if driver.poll() is None:
            kill(driver)
    assert driver.returncode == 0, out + err
    return out


def _poison(folder: Path) -> dict[str, str]:
    """Environment in which transformers' tokenizer of CLIP kills its process at one prompt, as a
    crash in native code would."""
    folder.mkdir()
    (folder / "sitecustomize.py").write_text(
        textwrap.dedent(
            f"""
            import importlib.abc, os, signal, sys

            class Poisoner(importlib.abc.MetaPathFinder):
                def find_spec(self, name, path, target=None):
                    if name != "s4v_core.engines.diffusers":
                        return None
                    sys.meta_path.remove(self)
                    from transformers import CLIPTokenizer
                    plain = CLIPTokenizer.__call__
                    def call(self, text, *more, **others):
                        if {POISON!r} in text:
                            os.kill(os.getpid(), signal.SIGKILL)
                        return plain(self, text, *more, **others)
                    CLIPTokenizer.__call__ = call
                    return None

            sys.meta_path.insert(0, Poisoner())
            """
        )
    )
    root = str(Path(__file__).resolve().parents[2])
    return {"PYTHONPATH": f"{folder}{os.pathsep}{root}"}


@pytest.mark.slow
def test_images_survive_kills_bit_by_bit_and_one_poisoned_prompt_is_named(
    model: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    assert "48 ok" in _finish(start_painting(model, whole, GATE_IMAGES))
    expected = _prove(whole, GATE_IMAGES)
    assert len({hashlib.sha256(png).digest() for png in expected.values()}) == GATE_IMAGES

    output, poison = tmp_path / "killed", _poison(tmp_path / "poison")
    driver = start_painting(model, output, GATE_IMAGES, 20, **poison)
    _wait_for_units(output, 1, driver)
    kill(driver)
    assert "1 errors" in _finish(start_painting(model, output, GATE_IMAGES, 20, **poison))
    images = _prove(output, GATE_IMAGES, {20})
    assert images.items() <= expected.items()


@pytest.mark.faults
@pytest.mark.timeout(3000)
def test_ten_kills_of_driver_painter_and_node(model: Path, tmp_path: Path) -> None:
    whole, output = tmp_path / "whole", tmp_path / "killed"
    _finish(start_painting(model, whole, IMAGES))
    expected = _prove(whole, IMAGES)
    chance = random.Random(0)
    with head_node(cpus=4) as variables:
        joined = driver_variables(variables)
        for number in range(KILLS):
            with _second_node(variables) as node:
                driver = start_painting(model, output, IMAGES, **joined)
                _wait_for_engines(driver, output)
                time.sleep(chance.uniform(0, 6))
                victim = ("driver", "painter", "node")[number % 3]
                _strike(victim, driver, node)
                if victim != "driver":
                    time.sleep(chance.uniform(0, 6))
                    driver.kill()
                driver.communicate()
            if len(list((output / "painted").glob("*.parquet"))) == IMAGES // UNIT:
                break
        _finish(start_painting(model, output, IMAGES, **joined))
    assert _prove(output, IMAGES) == expected


def test_pictures_that_show_nothing_and_refused_ones_have_no_files(
    tmp_path: Path, local_ray: None
) -> None:
    from diffusers import AutoencoderKL

    torch_black = AutoencoderKL(
        block_out_channels=(8, 8),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        norm_num_groups=4,
    )
    torch_black.decoder.conv_out.weight.data.zero_()
    torch_black.decoder.conv_out.bias.data.fill_(-1.0)
    black = build_tiny_painter(tmp_path / "black", vae=torch_black)
    strict = build_tiny_painter(tmp_path / "strict", **build_strict_checker())
    for model, reason in ((black, "black_image"), (strict, "safety_checker")):
        output = tmp_path / reason
        outcome = paint_prompts(make_prompts(5), str(output), _choose(model), unit_size=4)
        assert outcome.counts.reasons == {reason: 5}
        assert outcome.counts.rejected == 5
        assert _read_members(output) == {}


def test_a_run_of_other_settings_and_bad_ids_are_refused(
    model: Path, tmp_path: Path, local_ray: None
) -> None:
    output = str(tmp_path / "out")
    prompts = make_prompts(3)
    assert paint_prompts(prompts, output, _choose(model), unit_size=4).exit_code == 0
    assert paint_prompts(prompts, output, _choose(model), unit_size=4).has_run is False
    other = choose_painter(str(model), PAINTING.replace(seed=1), SETTINGS)
    with pytest.raises(ConfigError):
        paint_prompts(prompts, output, other, unit_size=4)
    with pytest.raises(InputError, match="cannot name an image"):
        paint_prompts([PromptToDraw("../a.b", "x")], str(tmp_path / "b"), _choose(model))


def test_captioning_finds_the_images_in_the_tars(
    model: Path, tmp_path: Path, local_ray: None
) -> None:
    from s4v_core.captioning.caption_pass import run_pass
    from s4v_core.captioning.job import CaptionJob

    drawn = tmp_path / "drawn"
    paint_prompts(make_prompts(6), str(drawn), _choose(model), unit_size=4)
    job = CaptionJob(
        input=(str(drawn / "images"),), output=str(tmp_path / "captions"), model="none"
    )
    outcome = run_pass(job.replace(engine="fake", settings=EngineSettings(cpus=1)))
    assert (outcome.counts.rows, outcome.counts.ok) == (6, 6)


SETTINGS = EngineSettings(device="cpu", cpus=1, batch_size=BATCH)


def _choose(model: Path) -> Any:
    return choose_painter(str(model), PAINTING, SETTINGS)


def test_only_tars_that_nobody_names_are_removed(
    model: Path, tmp_path: Path, local_ray: None
) -> None:
    output = tmp_path / "out"
    paint_prompts(make_prompts(3), str(output), _choose(model), unit_size=4)
    named = sorted(path.name for path in (output / "images").iterdir())
    old = output / "images" / "unit-000000-0123456789abcdef.tar"
    young = output / "images" / "unit-000000-0123456789abcdee.tar"
    foreign = output / "images" / "holiday.tar"
    for path in (old, young, foreign):
        path.write_bytes(b"")
    for path in (old, foreign):
        os.utime(path, (0, 0))
    os.utime(output / "images" / named[0], (0, 0))
    shards, units = UnitShards(str(output), PAINTED), UnitFolder(str(output), PAINTED)
    assert shards.remove_leftovers(units) == 1
    left = sorted(path.name for path in (output / "images").iterdir())
    assert left == sorted([*named, young.name, foreign.name])
    checks = build_painting_checks(str(output))
    assert verify_run(units, checks).is_sound
    tar = output / "images" / named[0]
    tar.write_bytes(tar.read_bytes().replace(b"IDAT", b"IDAR", 1))
    problems = verify_run(units, checks).problems
    assert problems == ("unit 0: 1 images that are not those of their rows",)
    tar.unlink()
    assert verify_run(units, checks).problems == ("unit 0: 3 ok rows without an image",)


def _wait_for_engines(driver: subprocess.Popen[str], output: Path) -> None:
    """Wait until painters run; a run that ends before is as good."""
    deadline = time.monotonic() + 600
    while driver.poll() is None and not _list_painters():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _list_painters() -> list[psutil.Process]:
    """Processes of engine workers whose cluster this test started."""
    found = []
    for process in psutil.process_iter(["cmdline", "environ"]):
        words = " ".join(process.info["cmdline"] or [])
        environ = process.info["environ"] or {}
        if "EngineActor" in words and environ.get("RAY_AUTH_TOKEN", "") in _TOKENS:
            found.append(process)
    return found


_TOKENS: set[str] = set()


def _strike(victim: str, driver: subprocess.Popen[str], node: psutil.Process) -> None:
    if victim == "driver":
        driver.kill()
        return
    targets = _list_painters() if victim == "painter" else [*node.children(recursive=True), node]
    for process in targets[:1] if victim == "painter" else targets:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()


@contextlib.contextmanager
def _second_node(variables: dict[str, str]) -> Iterator[psutil.Process]:
    """A node of four CPUs that joins the cluster, and is killed with all its processes at last."""
    _TOKENS.add(variables["RAY_AUTH_TOKEN"])
    command = [BIN / "ray", "start", f"--address={variables['GCS']}", "--block", "--num-cpus=4"]
    started = subprocess.Popen(
        command,
        env=variables,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    node = psutil.Process(started.pid)
    try:
        yield node
    finally:
        family = [node]
        with contextlib.suppress(psutil.NoSuchProcess):
            family += node.children(recursive=True)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        started.wait()
