"""GNU tar writes, s4v captions, GNU tar unpacks images and captions side by side."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from s4v_core.captioning.export import export_run
from s4v_core.inputs.finding import find_shards
from s4v_core.inputs.indexing import index_shard
from tests.flow.oracle import fake_caption_of
from tests.writers.passes import caption, check_samples
from tests.writers.pictures import draw_picture
from tests.writers.samples import Sample

FORMATS = {
    "gnu": ["--format=gnu"],
    "oldgnu": ["--format=oldgnu"],
    "posix": ["--posix"],
    "labelled": ["--posix", "--label=a label"],
    "without_times": ["--posix", "--pax-option=delete=mtime"],
    "incremental": ["--format=gnu", "--listed-incremental=snapshot"],
    "incremental_posix": ["--posix", "--listed-incremental=snapshot_posix"],
    "ustar": ["--format=ustar", "--exclude=long*"],
    "v7": ["--format=v7", "--exclude=long*"],
}
PACKERS = {".tar.zst": ("zstd", "--zstd"), ".tar.bz2": ("bzip2", "-j"), ".tar.xz": ("xz", "-J")}
PACKERS |= {".tgz": ("gzip", "-z")}


def _run_tar(*arguments: str | Path, cwd: Path) -> None:
    done = subprocess.run(["tar", *map(str, arguments)], cwd=cwd, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.fixture(autouse=True)
def _need_gnu_tar() -> None:
    tar = shutil.which("tar")
    version = subprocess.run([tar, "--version"], capture_output=True, text=True) if tar else None
    if version is None or "GNU tar" not in version.stdout:
        pytest.skip("no GNU tar")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """A folder with long names, names that are not ASCII, a hard link and a symbolic one."""
    folder = tmp_path / "pictures"
    for number, name in enumerate(
        ("a.jpg", "é à.jpg", "sub/folder/b.v1.2.jpg", f"{'long' * 30}/{'long' * 25}/c.jpg")
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(draw_picture(number))
    os.link(folder / "a.jpg", folder / "sub" / "hard.jpg")
    (folder / "sub" / "soft.jpg").symlink_to("folder/b.v1.2.jpg")
    return folder


def _write_tars(pictures: Path, folder: Path) -> dict[str, Path]:
    """The tars by the names of their shards."""
    folder.mkdir()
    tars = {}
    for name, options in FORMATS.items():
        tars[name] = folder / f"{name}.tar"
        _run_tar("-cf", tars[name], *options, "-C", pictures, ".", cwd=folder.parent)
    for ending, (program, option) in PACKERS.items():
        if shutil.which(program):
            name = f"packed_{program}"
            tars[name] = folder / f"{name}{ending}"
            _run_tar("-c", option, "-f", tars[name], "-C", pictures, ".", cwd=folder.parent)
    return tars


@pytest.mark.usefixtures("local_ray")
def test_every_format_and_packing(tmp_path: Path, pictures: Path) -> None:
    tars = _write_tars(pictures, tmp_path / "in")
    output = tmp_path / "out"
    caption(output, [tmp_path / "in"])
    export_run(str(output), f"{tmp_path}/sidecars/")
    for name, tar in tars.items():
        unpacked = tmp_path / "unpacked" / name
        unpacked.mkdir(parents=True)
        _run_tar("-xf", tar, cwd=unpacked)
        _run_tar("-xf", tmp_path / "sidecars" / f"{name}.tar", cwd=unpacked)
        found = {
            str(path.relative_to(unpacked)): Sample(
                str(path), path.read_bytes(), path.with_suffix(".txt").read_text()
            )
            for path in unpacked.rglob("*.jpg")
        }
        links = [found.pop("sub/hard.jpg"), found.pop("sub/soft.jpg")]
        check_samples(list(found.values()), range(3 if name in ("ustar", "v7") else 4))
        for sample in links:
            assert sample.caption == fake_caption_of(sample.image), sample.key


@pytest.mark.parametrize("version", ["0.0", "0.1", "1.0"])
def test_a_file_with_holes_keeps_its_name(tmp_path: Path, version: str) -> None:
    name = f"{'long' * 30}/sparse.jpg"
    path = tmp_path / name
    path.parent.mkdir()
    with path.open("wb") as file:
        file.write(draw_picture(1))
        file.truncate(1 << 20)
    options = ["--posix", "--sparse", f"--sparse-version={version}"]
    _run_tar("-cf", "a.tar", *options, name, cwd=tmp_path)
    [shard] = find_shards([f"{tmp_path}/a.tar"])
    assert [row["image_id"] for row in index_shard(shard)[0]] == [f"a/{name.removesuffix('.jpg')}"]
