"""Exports a run: checks where it would write, writes, and says what is in it and what is not.

Byte for byte the same every time. Holds one unit at a time.
"""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Literal

from s4v_core import storage
from s4v_core.captioning.export.caption_files import CAPTION_WRITERS
from s4v_core.captioning.export.image_files import write_image_files
from s4v_core.captioning.export.image_reading import ImageReader
from s4v_core.captioning.export.image_shards import write_image_shards
from s4v_core.captioning.export.run_rows import RunRows, UnfinishedRunError
from s4v_core.captioning.export.shard_sidecars import write_shard_sidecars
from s4v_core.captioning.export.targets import check_folder, check_targets
from s4v_core.errors import ConfigError
from s4v_core.inputs.shard_size import ShardSize
from s4v_core.runs.counts import RunCounts
from s4v_core.runs.outcome import DONE, INCOMPLETE_INPUT
from s4v_core.terminal import printable

Form = Literal["webdataset", "files"]
"""How an export with images is laid out: tar shards, or image files with a `.txt` beside each."""


@dataclass(frozen=True, slots=True)
class Exported:
    """The result of an export.

    Attributes:
        to: Where it was written.
        rows: Rows in it; `files` is the number of its files.
        counts: The rows of the run.
        gap: What the run lacks; None if every image has its row.
        left_out: Images that were captioned and cannot be read any more, by reason.
    """

    to: str
    rows: int
    files: int
    counts: RunCounts
    gap: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)

    @property
    def exit_code(self) -> int:
        return INCOMPLETE_INPUT if self.left_out else DONE

    def as_text(self) -> str:
        """A sentence for people."""
        counts = self.counts
        files = f" in {self.files} files" if self.files > 1 else ""
        text = (
            f"{self.rows} rows written to {printable(self.to)}{files}; of the run's {counts.done} "
            f"rows {counts.ok} are ok, {counts.rejected} rejected, {counts.error} errors"
        )
        if self.left_out:
            reasons = ", ".join(f"{reason} {count}" for reason, count in self.left_out.items())
            text += (
                f"\n{self.left_out.total()} captioned images could not be read and are left out: "
                f"{printable(reasons)}"
            )
        return text


def export_run(
    output: str,
    to: str,
    *,
    partial: bool = False,
    with_images: bool = False,
    form: Form = "webdataset",
    shard_size: str = "1GB",
) -> Exported:
    """Write the captions of a run; the ending of `to` says the format.

    `.json`: ShareGPT4V JSON (ok rows). `.jsonl`, `.parquet`: all rows with all columns.
    `.tar`: WebDataset sidecars of the ok rows, `<image_id>.txt` and `<image_id>.json`.
    `/`: a folder with one tar of sidecars for each tar of the input, with the same name and the
    same keys in the same order, so that both can be read side by side; an image without a caption
    has only its `.json`. With images, `/` is a folder of shards, or of image files, that hold the
    ok rows and their images.
    `hf://datasets/ORG/NAME[/PATH]`: the captions and the data card, in one commit.

    Nothing is written over that this run did not write itself.

    Args:
        partial: Export an unfinished run, too.
        with_images: Write each image beside its caption, byte for byte as it is stored.
        form: Layout of an export with images.
        shard_size: Size of a shard with images: `1GB`, `500MB`, or a number of images.

    Raises:
        ConfigError: The ending is none of these, or a target holds anything but an earlier export.
        InputError: `output` holds no run.
        UnfinishedRunError: Images have no row yet, and `partial` is not set.
    """
    limit = ShardSize.parse(shard_size)
    rows = RunRows.open(output)
    gap = rows.describe_gap()
    if gap and not partial:
        raise UnfinishedRunError(output, gap)
    reader = ImageReader(rows)
    if to.startswith("hf://"):
        if with_images:
            raise ConfigError(
                "to: found hf:// with images; export them to a folder, and upload that"
            )
        from s4v_core.captioning.export.hub import upload_captions  # takes a second to load

        count, files = upload_captions(rows, to)
    elif with_images:
        count, files = _export_images(reader, to, form, limit)
    elif to.endswith("/"):
        count, files = write_shard_sidecars(rows, storage.Receipts(output, to))
    else:
        count, files = _export_one_file(rows, to), 1
    return Exported(to, count, files, rows.counts, gap, reader.left_out)


def _export_images(reader: ImageReader, to: str, form: Form, limit: ShardSize) -> tuple[int, int]:
    if not to.endswith("/"):
        raise ConfigError(f"to: found {to!r} with images, allowed a folder that ends in /")
    place = storage.Receipts(reader.rows.output, to)
    found = check_folder(reader.rows, place)
    if form == "files":
        return write_image_files(reader, place, found)
    return write_image_shards(reader, place, found, limit)


def _export_one_file(rows: RunRows, to: str) -> int:
    ending = next((ending for ending in CAPTION_WRITERS if to.endswith(ending)), None)
    if ending is None:
        allowed = ", ".join(CAPTION_WRITERS)
        raise ConfigError(f"to: found {to!r}, allowed names ending in {allowed}, /")
    place = storage.Receipts(rows.output, to)
    check_targets(rows, place, [""])
    with NamedTemporaryFile() as file:
        count = CAPTION_WRITERS[ending](rows, file)
        file.flush()
        place.put(Path(file.name))
    return count
