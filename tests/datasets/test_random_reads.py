"""Containers that are slow to read at random: refused, or warned of, with the figure."""

import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from s4v_core.datasets.conversations import Conversation, Unusable
from s4v_core.datasets.image_fields import NamedImage
from s4v_core.datasets.joining import PlacedConversation, join_images
from s4v_core.datasets.random_reads import describe_row_groups, watch_reads
from s4v_core.errors import InputError
from tests.conftest import photo, write_tar


def _write_parquet(path: Path, images: int, image_bytes: int, group: int) -> str:
    chance = np.random.default_rng(0)
    data = [photo(0, (64, 48)) + chance.bytes(image_bytes) for _ in range(images)]
    table = pa.table({"image": data, "text": ["x" * 1000] * images})
    pq.write_table(table, path, row_group_size=group)
    return str(path)


def test_large_row_groups_are_named_with_what_an_image_costs(tmp_path: Path) -> None:
    slow = _write_parquet(tmp_path / "slow.parquet", 120, 100_000, group=100)
    fast = _write_parquet(tmp_path / "fast.parquet", 120, 100_000, group=10)
    [sentence] = describe_row_groups([slow, fast])
    # 100 of 120 images lie in a group of 100: (100 * 10.2 + 20 * 2.0) / 120 MB.
    assert "slow.parquet: each image that training reads costs 8.8 MB" in sentence
    assert "row groups hold 87 images" in sentence


@pytest.mark.parametrize("mode", ["w:gz", "w:bz2", "w:xz"])
def test_a_compressed_tar_is_refused_with_the_way_out(tmp_path: Path, mode: str) -> None:
    plain = write_tar(tmp_path / "in/a.tar", {"1.jpg": photo(1), "2.jpg": photo(2)})
    packed = tmp_path / f"packed/b.tar.{mode[2:]}"
    packed.parent.mkdir()
    with tarfile.open(packed, mode) as tar:  # type: ignore[call-overload]
        tar.add(plain.parent, arcname=".")
    place = {"container": "targz", "uri": str(packed)}
    turns = (("Q", "A"),)
    sample = PlacedConversation(
        Conversation("1", (NamedImage("a", "image"),), turns, (0,)), (place,)
    )
    with pytest.raises(InputError, match=r"compressed tar: .* unpacks half of its .* MB"):
        list(watch_reads(iter([Unusable("0", "not_found"), sample])))


def test_a_json_whose_images_are_in_a_compressed_tar_is_refused(tmp_path: Path) -> None:
    (tmp_path / "1.jpg").write_bytes(photo(1))
    with tarfile.open(tmp_path / "b.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "1.jpg", arcname="1.jpg")
    said = '[{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}]'
    (tmp_path / "d.json").write_text(f'[{{"image": "1.jpg", "conversations": {said}}}]')
    samples = join_images((f"{tmp_path}/d.json",), (f"{tmp_path}/b.tar.gz",), None)
    with pytest.raises(InputError, match="is a compressed tar"):
        list(watch_reads(samples))
