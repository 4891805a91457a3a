"""Captions from Python, in this process and durably."""

import io
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from s4v_core.api import caption
from s4v_core.errors import ConfigError, InputError
from s4v_core.images.policy import DecodeConfig
from s4v_core.records.captions import RESULT_SCHEMA
from tests.conftest import photo, write_tar
from tests.flow.oracle import fake_caption_of

FAKE = {"engine": "fake", "decode": DecodeConfig(reduced_jpeg=False)}


def test_images_in_memory_in_every_form_get_their_own_captions(tmp_path: Path) -> None:
    path = tmp_path / "c.jpg"
    path.write_bytes(photo(3))
    picture = Image.open(io.BytesIO(photo(2)))
    table = caption([photo(1), picture, path, str(path), b"no image"], model="none", **FAKE)
    assert table.schema == RESULT_SCHEMA
    rows = table.to_pylist()
    wanted = [fake_caption_of(photo(n)) for n in (1, 2, 3, 3)]
    assert [row["caption"] for row in rows] == [*wanted, None]
    assert [row["image_id"] for row in rows] == ["0", "1", "c.jpg", "c.jpg#2", "4"]
    assert (rows[-1]["status"], rows[-1]["reason"]) == ("error", "not_an_image")


def test_one_image_is_enough() -> None:
    [row] = caption(photo(1), model="none", **FAKE).to_pylist()
    assert row["caption"] == fake_caption_of(photo(1))


def test_shards_are_inputs_and_settings_are_those_of_a_job(tmp_path: Path) -> None:
    members = {f"{n}.jpg": photo(n, (64, 48)) for n in range(300)}
    members |= {f"{n}.txt": f"number {n}".encode() for n in range(300)}
    tar = write_tar(tmp_path / "0000.tar", members)
    (tmp_path / "prompts.txt").write_text("Its text is {sidecar}.")
    table = caption(
        str(tar), model="none", limit=280, prompts=str(tmp_path / "prompts.txt"), **FAKE
    )
    rows = table.to_pylist()
    assert [row["image_id"] for row in rows] == [f"0000/{n}" for n in range(280)]
    assert rows[7]["prompt"] == "Its text is number 7."
    assert all(row["caption"] == fake_caption_of(members[f"{n}.jpg"]) for n, row in enumerate(rows))


@pytest.mark.usefixtures("local_ray")
def test_with_an_output_it_is_a_run_that_resumes(tmp_path: Path) -> None:
    tar = write_tar(tmp_path / "0000.tar", {f"{n}.jpg": photo(n, (64, 48)) for n in range(20)})
    output = str(tmp_path / "out")
    table = caption(tar, model="none", output=output, unit_size=8, **FAKE)
    assert table.num_rows == 20
    assert table.equals(pq.read_table(f"{output}/captions").cast(RESULT_SCHEMA))
    next(Path(output, "captions").glob("*.parquet")).unlink()
    again = caption(tar, model="none", output=output, unit_size=8, **FAKE)
    assert again["caption"].to_pylist() == table["caption"].to_pylist()


def test_what_cannot_be_used_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="found images in memory"):
        caption([photo(1)], model="none", output=str(tmp_path / "out"), **FAKE)
    with pytest.raises(InputError, match="no such file"):
        caption(str(tmp_path / "nothing.jpg"), model="none", **FAKE)
    with pytest.raises(ConfigError, match="promt"):
        caption(photo(1), model="none", promt="What?", **FAKE)
