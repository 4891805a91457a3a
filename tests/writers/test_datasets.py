"""datasets writes, s4v captions, datasets reads."""

from pathlib import Path

import pytest

from s4v_core.captioning.export import export_run
from tests.writers.passes import call_package, caption, check_samples, needs_packages, read_with

pytestmark = [pytest.mark.writers, needs_packages, pytest.mark.usefixtures("local_ray")]


def test_tables_with_images_with_paths_and_with_both(tmp_path: Path) -> None:
    data, output = tmp_path / "in", tmp_path / "out"
    call_package("with_datasets", "write_tables", folder=str(data))
    tables = {"held": range(7), "mixed": range(10, 17), "paths": range(20, 27)}
    pushed = {"pushed": range(20, 27)}
    rows = caption(output, [data / name for name in tables | pushed])
    assert len(rows) == 28
    captions = str(output / "captions")
    for name, numbers in (tables | pushed).items():
        places = {"data": str(data / name), "captions": captions}
        samples = read_with("with_datasets", "read_tables", tmp_path / "read", **places)
        check_samples(samples, numbers)
        assert all(sample.number is not None for sample in samples)


def test_every_image_of_a_list_has_its_caption(tmp_path: Path) -> None:
    data, output = tmp_path / "in", tmp_path / "out"
    call_package("with_datasets", "write_tables", folder=str(data))
    rows = caption(output, [data / "lists"])
    assert rows.keys() == {f"{key}#{at}" for key in "ab" for at in range(3)}
    places = {
        "data": str(data / "lists" / "train.parquet"),
        "captions": str(output / "captions"),
    }
    samples = read_with("with_datasets", "read_lists", tmp_path / "read", **places)
    check_samples(samples, range(30, 36))


@pytest.mark.parametrize("metadata", ["csv", "jsonl", "parquet"])
def test_an_imagefolder_counts_each_image_once(tmp_path: Path, metadata: str) -> None:
    data, output = tmp_path / "in", tmp_path / "out"
    call_package("with_datasets", "write_imagefolder", folder=str(data), metadata=metadata)
    rows = caption(output, [data])
    numbers = [*range(7), *range(10, 17)]
    assert len(rows) == len(numbers)
    places = {"data": str(data), "captions": str(output / "captions")}
    samples = read_with("with_datasets", "read_imagefolder", tmp_path / "read", **places)
    check_samples(samples, numbers)
    assert all(sample.number is not None for sample in samples)


def test_an_exported_folder_and_exported_shards_are_read(tmp_path: Path) -> None:
    data, output = tmp_path / "in", tmp_path / "out"
    call_package("with_datasets", "write_imagefolder", folder=str(data), metadata="csv")
    caption(output, [data])
    folder, shards = str(tmp_path / "folder/"), str(tmp_path / "shards")
    export_run(str(output), f"{folder}/", with_images=True, form="files")
    export_run(str(output), f"{shards}/", with_images=True, shard_size="5")
    numbers = [*range(7), *range(10, 17)]
    samples = read_with("with_datasets", "read_exported_folder", tmp_path / "read", data=folder)
    check_samples(samples, numbers)
    samples = read_with("with_datasets", "read_webdataset", tmp_path / "read", shards=shards)
    check_samples(samples, numbers)
