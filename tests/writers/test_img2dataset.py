"""img2dataset downloads, s4v captions, the readers of its formats read."""

from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from s4v_core.captioning.export import export_run
from tests.writers.passes import call_package, caption, check_samples, needs_packages, read_with
from tests.writers.pictures import draw_picture

pytestmark = [pytest.mark.writers, needs_packages, pytest.mark.usefixtures("local_ray")]

NUMBERS = [*range(1, 5), *range(6, 11)]
"""Pictures that can be downloaded; number 5 cannot."""


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def urls(tmp_path: Path) -> Iterator[Path]:
    """A table of URLs of pictures, of which one is not there."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number in NUMBERS:
        (pictures / f"{number}.jpg").write_bytes(draw_picture(number))
    handler = partial(_QuietHandler, directory=str(pictures))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        table = tmp_path / "urls.csv"
        start = f"http://127.0.0.1:{server.server_port}"
        lines = [f"{start}/{n}.jpg,alt text {n},{n}\n" for n in range(1, 11)]
        table.write_text("url,text,number\n" + "".join(lines))
        yield table
        server.shutdown()


def _download(urls: Path, folder: Path, output_format: str, resize_mode: str = "no") -> None:
    call_package(
        "with_img2dataset",
        "write_downloads",
        urls=str(urls),
        folder=str(folder),
        output_format=output_format,
        resize_mode=resize_mode,
    )


@pytest.mark.parametrize("resize_mode", ["no", "keep_ratio"])
def test_its_shards_are_read_side_by_side_with_their_captions(
    urls: Path, tmp_path: Path, resize_mode: str
) -> None:
    data, output = tmp_path / "in", tmp_path / "out"
    _download(urls, data, "webdataset", resize_mode)
    rows = caption(output, [data])
    assert len(rows) == len(NUMBERS)
    export_run(str(output), f"{tmp_path}/sidecars/")
    places = {"images": str(data), "sidecars": str(tmp_path / "sidecars")}
    samples = read_with("with_webdataset", "read_beside", tmp_path / "read", **places)
    check_samples(samples, NUMBERS)
    assert all(sample.number is not None for sample in samples)


def test_its_folders_count_each_image_once(urls: Path, tmp_path: Path) -> None:
    data, output = tmp_path / "in", tmp_path / "out"
    _download(urls, data, "files")
    rows = caption(output, [data])
    assert len(rows) == len(NUMBERS)
    places = {"data": str(data), "captions": str(output / "captions")}
    samples = read_with("with_polars", "read_downloaded_files", tmp_path / "read", **places)
    check_samples(samples, NUMBERS)
    assert all(sample.number is not None for sample in samples)


def test_its_tables_have_a_row_without_an_image_too(urls: Path, tmp_path: Path) -> None:
    data, output = tmp_path / "in", tmp_path / "out"
    _download(urls, data, "parquet")
    rows = caption(output, [data])
    assert len(rows) == 10
    failed = [row for row in rows.values() if row["status"] != "ok"]
    assert len(failed) == 1
    places = {"data": str(data), "captions": str(output / "captions")}
    for module in ("with_polars", "with_pandas"):
        samples = read_with(module, "read_downloaded_tables", tmp_path / "read", **places)
        check_samples(samples, NUMBERS)
        assert all(sample.number is not None for sample in samples)
