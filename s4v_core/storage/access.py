"""Calling a store: its errors in our words, patience with its weather, less haste when it says so.

What looks like weather (time-outs, resets, 5xx, SlowDown) is tried again with growing waits, for
as long as the caller's patience lasts; what is a fact (absent, forbidden, invalid) is told at once.
"""

import asyncio
import errno
import random
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.utils import get_protocol

from s4v_core.errors import StorageError

T = TypeVar("T")

UNIT_PATIENCE_S = 600.0
"""For a unit's reads and writes: an outage of minutes must not cost a pass."""

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 30.0
MOST_CALLS = 64
"""Calls of one process that are under way at a store at the same time."""

FACTS = (FileNotFoundError, FileExistsError, PermissionError, IsADirectoryError, NotADirectoryError)
FACT_NUMBERS = frozenset(
    (
        *(errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENAMETOOLONG),
        *(errno.EMSGSIZE, errno.ENOSPC, errno.EROFS, errno.ENOTEMPTY, errno.EREMCHG),
    )
)
FACT_CLASSES = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError")
CLIENTS = ("botocore", "aiobotocore", "aiohttp", "urllib3", "fsspec", "requests", "gcsfs")
"""Packages whose own errors tell of a connection that failed."""

# One policy of retries, ours: botocore's own under it would multiply the waits.
fsspec.config.conf.setdefault("s3", {}).setdefault(
    "config_kwargs", {"retries": {"total_max_attempts": 1}}
)

_patience_s: ContextVar[float] = ContextVar("patience_s", default=20.0)


class UnreachableError(StorageError):
    """A store that did not answer for as long as anybody would wait."""


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """How long calls inside try again; by default as long as a person at a terminal would wait."""
    token = _patience_s.set(seconds)
    try:
        yield
    finally:
        _patience_s.reset(token)


def locate(uri: str) -> tuple[Any, str]:
    """The file system behind a URI, and the path in it.

    Raises:
        StorageError: Nobody knows the scheme, or its package is not installed.
    """
    try:
        fs, path = fsspec.core.url_to_fs(uri)
    except (ValueError, ImportError) as error:
        raise StorageError(uri, str(error)) from None
    return fs, path


def fresh(uri: str) -> tuple[Any, str]:
    """`locate` without what is remembered of earlier listings."""
    fs, path = locate(uri)
    fs.invalidate_cache()
    return fs, path


def call(uri: str, attempt: Callable[[], T], writing: bool = False) -> T:
    """What `attempt` returns; it is called again after weather, so it must bear that.

    Args:
        writing: Absence is a fact for who reads; for who writes it is the store that refuses.

    Raises:
        FileNotFoundError, FileExistsError: As they are (the former unless `writing`).
        UnreachableError: Weather that outlasted the caller's patience.
        StorageError: Everything else.
    """
    remote = get_protocol(uri) not in LocalFileSystem.protocol
    deadline = time.monotonic() + _patience_s.get()
    wait_s = FIRST_WAIT_S
    while True:
        try:
            with _PACE.turn(remote):
                return attempt()
        except (StorageError, FileExistsError):
            raise
        except FileNotFoundError as error:
            if not writing:
                raise FileNotFoundError(errno.ENOENT, "no such file", uri) from error
            raise _told(uri, error) from error
        except Exception as error:
            if not remote or not is_weather(error):
                raise _told(uri, error) from error
            if time.monotonic() > deadline:
                raise UnreachableError(uri, _words(error)) from error
        time.sleep(random.uniform(0, wait_s))
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)


def awaited(
    fs: Any, function: Callable[..., Coroutine[Any, Any, T]], *args: Any, limit_s: float
) -> T:
    """What a coroutine function of an asynchronous file system returns, within `limit_s` seconds:
    a body that trickles never trips the client's own time-outs."""

    async def limited() -> T:
        return await asyncio.wait_for(function(*args), limit_s)

    found: T = fsspec.asyn.sync(fs.loop, limited)
    return found


def is_weather(error: Exception) -> bool:
    """Whether the same call may work a little later."""
    if isinstance(error, FACTS) or type(error).__name__ in FACT_CLASSES:
        return False
    if isinstance(error, OSError):
        return error.errno not in FACT_NUMBERS
    return isinstance(error, TimeoutError) or type(error).__module__.split(".")[0] in CLIENTS


def _told(uri: str, error: Exception) -> StorageError:
    return StorageError(uri, _words(error))


def _words(error: Exception) -> str:
    """The client's own words where its translation by the file system may hold none."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


class _Pace:
    """How many calls may be under way: half as many after each refusal for load, and slowly more
    again while all goes well (additive increase, multiplicative decrease)."""

    def __init__(self, most: int) -> None:
        self._most = self._allowed = float(most)
        self._under_way = 0
        self._changed = threading.Condition()

    @contextmanager
    def turn(self, remote: bool) -> Iterator[None]:
        if not remote:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._under_way < max(self._allowed, 1))
            self._under_way += 1
        try:
            yield
            self._adjust(self._allowed + 1 / max(self._allowed, 1))
        except OSError as error:
            if error.errno == errno.EBUSY:  # s3fs's translation of SlowDown and 503
                self._adjust(self._allowed / 2)
            raise
        finally:
            with self._changed:
                self._under_way -= 1
                self._changed.notify()

    def _adjust(self, allowed: float) -> None:
        with self._changed:
            self._allowed = min(max(allowed, 1.0), self._most)
            self._changed.notify_all()


_PACE = _Pace(MOST_CALLS)
