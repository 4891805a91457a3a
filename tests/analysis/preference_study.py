"""Sets of captions of drawn photographs, and the script that compares them, as a process."""

import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import photo
from tests.flow.scripts import start

SETS = ("both.jsonl#here", "both.jsonl#there")


def write_sets(folder: Path, count: int) -> Path:
    """Write images, and one file of records with two captions of each; return the folder."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(count):
        name = f"images/{number:03d}.jpg"
        (folder / name).write_bytes(photo(number))
        texts = {"here": f"here says {number}", "there": f"there says {number}, and says more"}
        lines.append(json.dumps({"image": name, **texts}))
    (folder / "both.jsonl").write_text("\n".join(lines))
    return folder


@dataclass
class RunningStudy:
    """A study whose page is open."""

    process: subprocess.Popen[str]
    address: str


@contextmanager
def open_page(folder: Path, *flags: str) -> Iterator[RunningStudy]:
    """Start prefer.py on a free port and wait for its address."""
    process = start("prefer.py", *SETS, "--output", "study", "--port", "0", *flags, cwd=folder)
    try:
        assert process.stdout
        for line in process.stdout:
            if line.startswith("open "):
                yield RunningStudy(process, line.split()[1])
                return
        raise AssertionError(process.communicate()[1])
    finally:
        process.kill()
        process.communicate()
