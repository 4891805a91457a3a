"""Files of a checkpoint through this project's storage: whole or absent, and written with patience.

torch writes a checkpoint in a thread of its own, which does not have the patience of its caller.
"""

import io
import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

from torch.distributed.checkpoint._fsspec_filesystem import FileSystem, FsspecWriter

from s4v_core import storage
from s4v_core.environment import find_scratch_folder

_SPOOL = "spool"


class PatientWriter(FsspecWriter):
    """Writes the files of a checkpoint below a URI.

    Args:
        patience_s: Seconds to wait for a store that does not answer.
        threads: Number of threads that write.
    """

    def __init__(self, uri: str, patience_s: float, threads: int) -> None:
        # A file on its way to a store need not be durable on this disk.
        super().__init__(uri, sync_files=storage.is_local(uri), thread_count=threads)
        self.fs = _PatientFiles(patience_s)
        self.path = self.fs.init_path(uri)


class _PatientFiles(FileSystem):
    def __init__(self, patience_s: float) -> None:
        super().__init__()
        self._patience_s = patience_s

    @contextmanager
    def create_stream(self, path: str | os.PathLike[str], mode: str) -> Iterator[Any]:
        assert mode == "wb", "this class only writes"
        with (
            storage.patience(self._patience_s),
            storage.open_to_write(os.fspath(path), find_scratch_folder(_SPOOL)) as file,
        ):
            yield cast(io.IOBase, file)

    def mkdir(self, path: str | os.PathLike[str]) -> None:
        with storage.patience(self._patience_s):
            storage.make_folder(os.fspath(path))

    def exists(self, path: str | os.PathLike[str]) -> bool:
        with storage.patience(self._patience_s):
            return storage.exists(os.fspath(path))

    def rename(self, path: str | os.PathLike[str], new_path: str | os.PathLike[str]) -> None:
        with storage.patience(self._patience_s):
            storage.rename(os.fspath(path), os.fspath(new_path))

    def rm_file(self, path: str | os.PathLike[str]) -> None:
        with storage.patience(self._patience_s):
            storage.remove(os.fspath(path))
