"""webdataset writes, s4v captions, webdataset reads."""

from pathlib import Path

import pytest

from s4v_core.captioning.export import export_run
from tests.writers.passes import (
    call_package,
    caption,
    check_samples,
    needs_packages,
    read_with,
)

pytestmark = [pytest.mark.writers, needs_packages, pytest.mark.usefixtures("local_ray")]


def test_shards_are_read_side_by_side_with_their_captions(tmp_path: Path) -> None:
    shards, output = tmp_path / "in", tmp_path / "out"
    numbers, broken = list(range(1, 15)), [6, 7]
    call_package(
        "with_webdataset",
        "write_shards",
        pattern=f"{shards}/%05d.tar",
        numbers=numbers,
        broken=broken,
        maxcount=5,
    )
    rows = caption(output, [shards])
    assert rows.keys() == {
        f"{at // 5:05d}/part_{number % 2}/{number:06d}" for at, number in enumerate(numbers)
    }
    export_run(str(output), f"{tmp_path}/sidecars/")
    export_run(str(output), f"{tmp_path}/together/", with_images=True, shard_size="4")
    whole = [number for number in numbers if number not in broken]

    places = {"images": str(shards), "sidecars": str(tmp_path / "sidecars")}
    samples = read_with("with_webdataset", "read_beside", tmp_path / "read", **places)
    assert [int(sample.key[-6:]) for sample in samples] == numbers
    lost = [sample for sample in samples if sample.number in broken]
    assert [sample.caption for sample in lost] == [None, None]
    check_samples([sample for sample in samples if sample not in lost], whole)
    assert all(sample.number is not None for sample in samples)

    together = {"shards": str(tmp_path / "together")}
    check_samples(read_with("with_webdataset", "read_shards", tmp_path / "read", **together), whole)
    samples = read_with("with_datasets", "read_webdataset", tmp_path / "read", **together)
    check_samples(samples, whole)


def test_every_form_of_a_shard_keeps_its_images(tmp_path: Path) -> None:
    shards, output = tmp_path / "in", tmp_path / "out"
    call_package("with_webdataset", "write_forms", folder=str(shards))
    caption(output, [shards])
    export_run(str(output), f"{tmp_path}/sidecars/")
    export_run(str(output), f"{tmp_path}/together/", with_images=True)
    together = {"shards": str(tmp_path / "together")}
    samples = read_with("with_webdataset", "read_shards", tmp_path / "read", **together)
    check_samples(samples, range(21))
    assert "pairs/k1.left" in {sample.key for sample in samples}


def test_several_images_of_a_sample_have_a_caption_each(tmp_path: Path) -> None:
    shards, output = tmp_path / "in", tmp_path / "out"
    call_package("with_webdataset", "write_forms", folder=str(shards))
    caption(output, [shards / "pairs.tar"])
    export_run(str(output), f"{tmp_path}/sidecars/")
    pairs = tmp_path / "pairs"
    pairs.mkdir()
    (shards / "pairs.tar").rename(pairs / "pairs.tar")
    places = {"images": str(pairs), "sidecars": str(tmp_path / "sidecars")}
    samples = read_with("with_webdataset", "read_fields_beside", tmp_path / "read", **places)
    check_samples(samples, range(12, 18))
