"""Runs checkpoints of the catalogue through bare vLLM and through this project's engines, in
processes of their own, and keeps the answers for the rest of the session."""

import hashlib
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from s4v_core import chat
from s4v_core.model.checkpoint_facts import CheckpointFacts
from tests.architectures.answers import check_checkpoint
from tests.architectures.catalogue import ARCHITECTURES
from tests.architectures.photographs import list_photographs, save_pictures
from tests.architectures.reference import QUESTION, Inquiry, save_inquiries

ROOT = Path(__file__).resolve().parents[2]

KEPT = "S4V_TRIALS"
"""Variable that names a folder which keeps answers from session to session. Those of the engines
are asked for again when a line of this project has changed."""

_LIMIT_S = 3000


@dataclass(frozen=True)
class Trial:
    """One checkpoint, built, with the pictures that its framing gives.

    Attributes:
        facts: What a pass knows about the checkpoint, with the framing of its pictures.
        digest: Changes with the checkpoint, the pictures and the question.
    """

    name: str
    checkpoint: Path
    pictures: Path
    facts: CheckpointFacts
    digest: str

    def inquire(self, target: Path) -> Inquiry:
        """The questions that both sides answer."""
        given = None
        if self.facts.template in chat.TEMPLATES:
            given = chat.find_template(self.facts.template).render(QUESTION)
        options = ARCHITECTURES[self.name].options
        return Inquiry(
            str(self.checkpoint), str(self.pictures), str(target), QUESTION, json.dumps(options),
            given,
        )  # fmt: skip


class Trials:
    """All trials of a session."""

    def __init__(self, folder: Path, wanted: Sequence[str]) -> None:
        """Args:
        wanted: Architectures that this session will ask about; one process answers for all.
        """
        self._folder, self._wanted = folder, list(wanted)
        self._kept = Path(os.environ.get(KEPT) or folder / "kept")
        self._kept.mkdir(parents=True, exist_ok=True)
        self._trials: dict[str, Trial] = {}

    def build(self, name: str) -> Trial:
        """The trial of an architecture.

        Skips the test if the processor needs a package that is not installed.
        """
        if package := find_missing_package(name):
            pytest.skip(f"the processor of {name} needs the package {package}")
        if name not in self._trials:
            checkpoint, pictures = self._folder / name, self._folder / f"{name}.pictures"
            ARCHITECTURES[name].build(checkpoint)
            facts = check_checkpoint(str(checkpoint), "vllm").facts
            seen = save_pictures(list_photographs(), facts.framing, pictures)
            digest = hashlib.sha256(f"{seen} {QUESTION} {_digest(checkpoint)}".encode())
            self._trials[name] = Trial(name, checkpoint, pictures, facts, digest.hexdigest()[:16])
        return self._trials[name]

    def ask_bare(self, name: str) -> dict[str, Any]:
        """Answers of bare vLLM."""
        return self._ask("reference", name)

    def ask_engine(self, name: str, engine: str) -> dict[str, Any]:
        """Answers of this project's engine."""
        return self._ask(engine, name)

    def _ask(self, who: str, name: str) -> dict[str, Any]:
        self.build(name)
        inquiries = {
            each: self._inquire(who, each)
            for each in dict.fromkeys((*self._wanted, name))
            if not find_missing_package(each)
        }
        target = Path(inquiries[name].target)
        if not target.exists():
            self._run(who, list(inquiries.values()))
        if not target.exists():  # another checkpoint ended the process
            self._run(who, [inquiries[name]])
        assert target.exists(), (self._folder / f"{who}.log").read_text()[-3000:]
        found: dict[str, Any] = json.loads(target.read_text())
        return found

    def _inquire(self, who: str, name: str) -> Inquiry:
        trial = self.build(name)
        code = "" if who == "reference" else f".{_digest_code()}"
        return trial.inquire(self._kept / f"{name}.{who}.{trial.digest}{code}.json")

    def _run(self, who: str, inquiries: list[Inquiry]) -> None:
        list_file = self._folder / f"{who}.inquiries.json"
        save_inquiries(inquiries, list_file)
        command = [sys.executable, "-m", "tests.architectures.answers", who, str(list_file)]
        if who == "reference":
            command = [sys.executable, "-m", "tests.architectures.reference"]
            command += ["--inquiries", str(list_file)]
        with (self._folder / f"{who}.log").open("w") as log:
            subprocess.run(
                command, cwd=ROOT, stdout=log, stderr=log, timeout=_LIMIT_S, check=False,
                env=os.environ | {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"},
            )  # fmt: skip


def find_missing_package(name: str) -> str | None:
    """The package that the architecture's processor needs and that is not installed."""
    package = ARCHITECTURES[name].needs
    return package if package and not importlib.util.find_spec(package) else None


def _digest(folder: Path) -> str:
    return _digest_files(sorted(folder.iterdir()))


@cache
def _digest_code() -> str:
    return _digest_files(sorted((ROOT / "s4v_core").rglob("*.py")))[:16]


def _digest_files(paths: Sequence[Path]) -> str:
    whole = hashlib.sha256()
    for path in paths:
        whole.update(path.name.encode() + path.read_bytes())
    return whole.hexdigest()
