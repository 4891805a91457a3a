"""Where the questions and the images of a benchmark lie on a user's disk or in a store."""

import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4v_core import storage
from s4v_core.errors import InputError
from s4v_core.evaluation.benchmark import Benchmark, Question
from s4v_core.inputs.tar import BLOCK, add_member
from s4v_core.storage import StoredFile

PICTURES = "pictures"
"""Folder of a run with the images that a benchmark's file holds in itself."""


def find_data(data: str, benchmark: Benchmark, is_only: bool) -> str:
    """Folder or file of a benchmark.

    Args:
        data: The place of all benchmarks: a folder with one for each, by the benchmark's name or by
            one that it often has; if there is only one benchmark, its own place.

    Raises:
        InputError: There is no folder for it.
    """
    names = (benchmark.name, *benchmark.folders)
    places = [storage.join(data, name) for name in names]
    found = next((place for place in places if storage.is_folder(place)), None)
    if found is None and not is_only:
        raise InputError(data, f"found no folder {' or '.join(names)} for {benchmark.title}")
    return found or data


@dataclass(frozen=True, slots=True)
class Place:
    """Where the bytes of an image lie, in the columns of a plan; `problem` if they lie nowhere."""

    uri: str | None = None
    container: str | None = None
    offset: int | None = None
    length: int | None = None
    etag: str | None = None
    problem: str | None = None

    def as_columns(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__slots__}


NO_IMAGE = Place()
"""Place of a question that has no image."""

_MISSING = Place(container="file", problem="not_found")


def place_images(
    benchmark: Benchmark, questions: Sequence[Question], data: str, images: str | None, output: str
) -> list[Place]:
    """Find the image of each question.

    Args:
        data: Folder or file of the benchmark.
        images: Another folder to look into first.
        output: Folder of the run; images that the benchmark's file holds in itself are kept below
            it, where workers can read them.

    Returns:
        One place per question; of an image that is not there, one with a problem.
    """
    if benchmark.read_pictures is not None:
        uri = storage.join(output, PICTURES, f"{benchmark.name}.tar")
        held = _keep_pictures(uri, benchmark.read_pictures(data))
        return [held.get(question.key, _MISSING) for question in questions]
    folder = data if storage.is_folder(data) else storage.parent(data)
    folders = [_Folder(one) for one in (images, folder) if one]
    return [_find_image(benchmark, question, folders) for question in questions]


def _find_image(benchmark: Benchmark, question: Question, folders: Sequence["_Folder"]) -> Place:
    if not question.image:
        return NO_IMAGE
    names = benchmark.name_images(question)
    files = (folder.find(name) for folder in folders for name in names)
    file = next((one for one in files if one), None)
    file = file or next((one for one in (f.find_alone(names) for f in folders) if one), None)
    if file is None:
        return Place(uri=names[0], container="file", problem="not_found")
    return Place(file.uri, "file", 0, file.size, file.etag)


class _Folder:
    """The files below a folder, by path and by file name."""

    def __init__(self, uri: str) -> None:
        files = storage.list_files(uri) if storage.is_folder(uri) else []
        cut = len(storage.absolute(uri).rstrip("/")) + 1
        self._files = {file.uri[cut:]: file for file in files}
        self._names = {storage.base_name(path): path for path in self._files}
        self._counts = Counter(map(storage.base_name, self._files))

    def find(self, path: str) -> StoredFile | None:
        return self._files.get(path)

    def find_alone(self, paths: Iterable[str]) -> StoredFile | None:
        """The only file, wherever it lies, that has the file name of one of the paths."""
        names = {storage.base_name(path) for path in paths}
        found = [name for name in names if self._counts[name] == 1]
        return self._files[self._names[found[0]]] if len(found) == 1 else None


def _keep_pictures(uri: str, pictures: Mapping[str, bytes]) -> dict[str, Place]:
    """Write pictures into one tar, unless it is there; the same pictures always give the same tar.

    Returns:
        Places by the pictures' keys; equal pictures have one place.
    """
    spans: dict[str, tuple[int, int]] = {}
    known: dict[bytes, tuple[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pictures.tar"
        with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
            for key, data in pictures.items():
                if data not in known:
                    known[data] = (tar.offset + BLOCK, len(data))
                    add_member(tar, f"{len(known):08d}", data)
                spans[key] = known[data]
        written = storage.describe_content(path)
        storage.create_file(uri, path)
    file = storage.stat(uri)
    if file is None or file.size != written.size:
        raise InputError(uri, "holds the images of other questions; choose another --output")
    return {
        key: Place(uri, "tar", offset, length, file.etag) for key, (offset, length) in spans.items()
    }
