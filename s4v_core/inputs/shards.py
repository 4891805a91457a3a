"""One shard of the input as a value: a file of many images, or the loose images of a folder."""

from dataclasses import dataclass

from s4v_core.storage import StoredFile


@dataclass(frozen=True, slots=True)
class Shard:
    """An input file of many images, or the loose image files of one folder.

    Attributes:
        kind: tar, targz, zip, parquet, json, list, archive, or files; folder if it cannot be
            listed.
        uri: URI of the file or folder.
        name: Start of the image ids: the file's path below the input, without its ending.
        size: Size of the file in bytes; 0 for a folder.
        etag: Version of the file; empty for a folder, whose `files` have their own.
        files: The image files of a folder.
        unknown: Files of a folder whose names do not tell whether they are images.
        sidecars: The text files of a folder.
        companions: Number of other files of a folder that are no images by their names.
        image_root: Folder of the images that a table names.
        columns: Columns of a table, or fields of its records, that are kept with each image as its
            sidecar.
        image_column: Column or field of the images of a table; by default it is found by its name.
        only_missing: Where images that shall be left out have their captions: `txt` for sidecars of
            that ending, or the name of a field or column.
        problem: Why the shard cannot be read at all.
    """

    kind: str
    uri: str
    name: str
    size: int = 0
    etag: str = ""
    files: tuple[StoredFile, ...] = ()
    unknown: tuple[StoredFile, ...] = ()
    sidecars: tuple[StoredFile, ...] = ()
    companions: int = 0
    image_root: str | None = None
    columns: tuple[str, ...] = ()
    image_column: str | None = None
    only_missing: str | None = None
    problem: str | None = None

    @property
    def listing(self) -> list[str]:
        """One line for each file, which changes when the file does."""
        is_file = self.kind not in ("files", "folder")
        own = [f"{self.uri} {self.size} {self.etag}"] if is_file else []
        files = (*self.files, *self.unknown, *self.sidecars)
        return own + [f"{f.uri} {f.size} {f.etag}" for f in files]
