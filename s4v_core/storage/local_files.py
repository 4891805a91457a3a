"""Files of a local disk, of which only regular ones are opened: a pipe would wait for a writer for
ever, and opening a device can change its state."""

import io
import os
import stat

from s4v_core.storage.reasons import PlaceError

_LARGEST_GAP = 1 << 20
"""Up to this many bytes of a local file are read and thrown away rather than skipped."""


def open_regular(path: str, flags: int) -> int:
    """Open a regular file, as the `opener` of Python's own `open`.

    Raises:
        PlaceError: It is a folder, a pipe, a socket or a device.
    """
    _check_regular(path, os.stat(path).st_mode)
    # It may have become a pipe just now.
    handle = os.open(path, flags | os.O_NONBLOCK)
    try:
        _check_regular(path, os.fstat(handle).st_mode)
    except PlaceError:
        os.close(handle)
        raise
    return handle


class LocalFile(io.FileIO):
    """A local file that reads small gaps instead of skipping them.

    The kernel reads ahead for a process that reads without gaps. With gaps, each header of a tar
    shard would wait for the disk, and asking for the next range (`posix_fadvise`) took longer
    than reading it (tests/perf/RESULTS.md: Indexing).
    """

    def __init__(self, path: str) -> None:
        super().__init__(path, opener=open_regular)
        self._discarded = memoryview(bytearray(_LARGEST_GAP))

    def seek(self, offset: int, whence: int = 0, /) -> int:
        if whence == os.SEEK_SET and 0 < (gap := offset - self.tell()) <= _LARGEST_GAP:
            self.readinto(self._discarded[:gap])
        return super().seek(offset, whence)


def _check_regular(path: str, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise PlaceError(path, "not a regular file", "not_a_file")
