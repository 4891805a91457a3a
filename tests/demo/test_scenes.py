import tarfile
from itertools import islice
from pathlib import Path

import numpy as np

from s4v_core.demo.scenes import COLOURS, PLACES, SIDE_PX, draw_scenes, write_scenes


def test_a_seed_gives_the_same_shards(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_scenes(tmp_path / name, 40, seed=3)
    for shard in ("00000.tar", "00001.tar"):
        assert (tmp_path / "one" / shard).read_bytes() == (tmp_path / "two" / shard).read_bytes()
    with tarfile.open(tmp_path / "one" / "00001.tar") as tar:
        assert len(tar.getnames()) == 16


def test_a_caption_says_what_is_painted_where() -> None:
    for scene, image in islice(draw_scenes(7), 20):
        pixels = np.asarray(image)
        for shape in scene.shapes:
            x, y = (int(p * SIDE_PX) for p in PLACES[shape.place])
            assert np.abs(pixels[y, x].astype(int) - COLOURS[shape.colour]).max() < 8
            assert (
                f"a {shape.size} {shape.colour} {shape.shape} at the {shape.place}" in scene.caption
            )
