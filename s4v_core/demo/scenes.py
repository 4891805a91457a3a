"""Drawn scenes with exact captions: coloured shapes with size and place, from a seed."""

import io
import random
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

COLOURS = {
    "red": (214, 40, 40),
    "green": (45, 140, 60),
    "blue": (35, 80, 200),
    "yellow": (240, 200, 40),
    "purple": (125, 55, 160),
    "orange": (240, 130, 30),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": 0.11, "large": 0.19}
"""Half the width of a shape, as a share of the scene's side."""
PLACES = {
    "top left": (0.27, 0.27),
    "top right": (0.73, 0.27),
    "bottom left": (0.27, 0.73),
    "bottom right": (0.73, 0.73),
}
BACKGROUNDS = {"white": (245, 245, 245), "grey": (150, 150, 150), "black": (25, 25, 25)}
SIDE_PX = 224
OVERSAMPLING = 3


@dataclass(frozen=True, slots=True)
class Shape:
    size: str
    colour: str
    shape: str
    place: str


@dataclass(frozen=True, slots=True)
class Scene:
    background: str
    shapes: tuple[Shape, ...]

    @property
    def caption(self) -> str:
        """All that is to be seen, in reading order."""
        seen = [f"a {s.size} {s.colour} {s.shape} at the {s.place}" for s in self.shapes]
        listed = seen[0] if len(seen) == 1 else ", ".join(seen[:-1]) + " and " + seen[-1]
        return f"On a {self.background} background there is {listed}."


def draw_scenes(seed: int) -> Iterator[tuple[Scene, Image.Image]]:
    """Scenes without end, the same for the same seed."""
    chance = random.Random(seed)
    while True:
        scene = _imagined(chance)
        yield scene, _painted(scene, chance)


def write_scenes(folder: Path, count: int, seed: int = 0, per_shard: int = 32) -> None:
    """Write scenes as WebDataset shards: `00000000.jpg` with its caption in `00000000.txt`."""
    folder.mkdir(parents=True, exist_ok=True)
    numbered = enumerate(islice(draw_scenes(seed), count))
    for shard, scenes in enumerate(_batched(numbered, per_shard)):
        with tarfile.open(folder / f"{shard:05d}.tar", "w", format=tarfile.USTAR_FORMAT) as tar:
            for number, (scene, image) in scenes:
                _add(tar, f"{number:08d}.jpg", _jpeg(image))
                _add(tar, f"{number:08d}.txt", scene.caption.encode())


def _imagined(chance: random.Random) -> Scene:
    places = sorted(chance.sample(list(PLACES), chance.randint(1, 3)), key=list(PLACES).index)
    shapes = tuple(
        Shape(
            chance.choice(list(SIZES)), chance.choice(list(COLOURS)), chance.choice(SHAPES), place
        )
        for place in places
    )
    return Scene(chance.choice(list(BACKGROUNDS)), shapes)


def _painted(scene: Scene, chance: random.Random) -> Image.Image:
    side = SIDE_PX * OVERSAMPLING  # drawn larger and reduced: smooth edges
    image = Image.new("RGB", (side, side), BACKGROUNDS[scene.background])
    pen = ImageDraw.Draw(image)
    for shape in scene.shapes:
        x, y = (side * (p + chance.uniform(-0.04, 0.04)) for p in PLACES[shape.place])
        half = side * SIZES[shape.size]
        _draw(pen, shape.shape, (x - half, y - half, x + half, y + half), COLOURS[shape.colour])
    return image.resize((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS)


def _draw(pen: Any, shape: str, box: tuple[float, ...], colour: tuple[int, int, int]) -> None:
    left, top, right, bottom = box
    if shape == "circle":
        pen.ellipse(box, fill=colour)
    elif shape == "square":
        pen.rectangle(box, fill=colour)
    else:
        pen.polygon([((left + right) / 2, top), (right, bottom), (left, bottom)], fill=colour)


def _jpeg(image: Image.Image) -> bytes:
    sink = io.BytesIO()
    image.save(sink, "JPEG", quality=92)
    return sink.getvalue()


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)  # no time, no owner: the same bytes every time
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _batched(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while part := list(islice(items, size)):
        yield part
