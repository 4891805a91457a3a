"""`--retry-errors` that is killed or runs twice at once: readers see each image once, always."""

import json
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.faults.world import World, build_world, failpoint
from tests.flow.oracle import check_rows
from tests.flow.scripts import FAKE, run, start

pytestmark = [pytest.mark.faults, pytest.mark.timeout(1800)]

IMAGES, MISSING = 160, 20


@dataclass(frozen=True)
class BrokenRun:
    """A finished run in which every eighth image was missing; the files exist now.

    Attributes:
        names: File name of each image, by its id in the world.
    """

    world: World
    folder: Path
    names: dict[str, str]

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def flags(self) -> list[str]:
        data, images = str(self.folder / "data.json"), str(self.folder / "images")
        given = ["--input", data, "--image-root", images, *FAKE]
        return [*given, "--output", str(self.output), "--unit-size", "16"]

    def prove(self) -> None:
        """Check that every image has its own caption."""
        rows = {row["image_id"]: row for row in check_rows(self.output)}
        assert len(rows) == IMAGES
        for image_id, name in self.names.items():
            assert rows[name]["caption"] == self.world.captions[image_id]


@pytest.fixture
def broken(tmp_path: Path) -> BrokenRun:
    return _make_broken_run(tmp_path)


def _make_broken_run(folder: Path) -> BrokenRun:
    world = build_world(folder / "shards", images=IMAGES, shards=1)
    names = {image_id: f"{n:04d}.png" for n, image_id in enumerate(world.images)}
    found = BrokenRun(world, folder, names)
    records = [{"id": image_id, "image": name} for image_id, name in names.items()]
    (folder / "data.json").write_text(json.dumps(records))
    (folder / "images").mkdir()
    for number, (image_id, name) in enumerate(names.items()):
        if number % 8:
            (folder / "images" / name).write_bytes(world.images[image_id])
    code, _, err = run("caption.py", *found.flags, cwd=folder)
    assert code == 0, err
    assert sum(row["status"] == "error" for row in check_rows(found.output)) == MISSING
    for image_id, name in names.items():
        (folder / "images" / name).write_bytes(world.images[image_id])
    return found


@pytest.mark.parametrize("point", ["before_heal_put", "after_heal_put"])
@pytest.mark.parametrize("nth", [1, 2, 7])
def test_killed_while_healing(broken: BrokenRun, point: str, nth: int) -> None:
    folder = broken.folder
    variables = failpoint(point, nth, folder)
    code, _, err = run("caption.py", *broken.flags, "--retry-errors", cwd=folder, **variables)
    assert code in (0, 1), err
    code, _, err = run("caption.py", *broken.flags, "--retry-errors", cwd=folder)
    assert code == 0, err
    broken.prove()


ROUNDS = 10


def test_two_heal_at_once_and_one_is_killed_and_a_reader_sees_each_image_once(
    tmp_path: Path,
) -> None:
    chance = random.Random(0)
    for number in range(ROUNDS):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        broken = _make_broken_run(folder)
        with _read_meanwhile(broken.output) as seen:
            heals = [
                start("caption.py", *broken.flags, "--retry-errors", cwd=folder) for _ in range(2)
            ]
            time.sleep(chance.uniform(10, 30))
            heals[0].kill()
            outputs = [heal.communicate(timeout=600) for heal in heals]
            assert heals[1].returncode == 0, outputs[1]
        assert set(seen) == {(IMAGES, IMAGES)}
        code, _, err = run("caption.py", *broken.flags, "--retry-errors", cwd=folder)
        assert code == 0, err
        broken.prove()


@contextmanager
def _read_meanwhile(output: Path) -> Iterator[list[tuple[int, int]]]:
    """Repeatedly count the rows of all units, and their different image ids, during the block."""
    done, seen = threading.Event(), list[tuple[int, int]]()

    def read() -> None:
        while not done.is_set():
            files = sorted((output / "captions").glob("*.parquet"))
            ids = [
                name
                for file in files
                for name in pq.read_table(file, columns=["image_id"])["image_id"].to_pylist()
            ]
            seen.append((len(ids), len(set(ids))))
            time.sleep(0.05)

    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield seen
    finally:
        done.set()
        reader.join()
