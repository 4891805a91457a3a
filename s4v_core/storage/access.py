"""Calls to a store: its errors become ours, transient ones are retried, and load is limited.

Transient errors (time-outs, resets, 5xx, SlowDown) are retried with growing waits, as long as the
caller's patience lasts. Permanent ones (absent, forbidden, invalid) are raised at once.
"""

import asyncio
import errno
import random
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

import fsspec
from fsspec.implementations.local import LocalFileSystem

from s4v_core.errors import StorageError
from s4v_core.storage.reasons import NoCredentialsError, PlaceError, escape_name, find_reason

_T = TypeVar("_T")

UNIT_PATIENCE_S = 600.0
"""Patience for reading and writing a unit: an outage of minutes must not end a pass."""

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_MAX_CALLS = 64
"""Calls of one process that may be in flight to stores at the same time."""

_PERMANENT_ERRORS = (
    FileNotFoundError,
    FileExistsError,
    PermissionError,
    IsADirectoryError,
    NotADirectoryError,
)
_PERMANENT_NUMBERS = frozenset(
    (
        *(errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES, errno.ENAMETOOLONG),
        *(errno.EMSGSIZE, errno.ENOSPC, errno.EROFS, errno.ENOTEMPTY, errno.EREMCHG),
    )
)
_MISSING_CREDENTIALS = ("NoCredentialsError", "PartialCredentialsError")
_PERMANENT_NAMES = ("ParamValidationError",)
_CLIENTS = ("botocore", "aiobotocore", "aiohttp", "urllib3", "fsspec", "requests", "gcsfs")
"""Packages whose own error classes mean that a connection failed."""

# This module's retries are the only ones: botocore's own below them would multiply the waits.
fsspec.config.conf.setdefault("s3", {}).setdefault(
    "config_kwargs", {"retries": {"total_max_attempts": 1}}
)

_patience_s: ContextVar[float] = ContextVar("patience_s", default=20.0)


class UnreachableError(StorageError):
    """A store did not answer for as long as the caller's patience lasted."""


@contextmanager
def patience(seconds: float) -> Iterator[None]:
    """Retry calls inside for this long; by default as long as a person at a terminal would wait."""
    token = _patience_s.set(seconds)
    try:
        yield
    finally:
        _patience_s.reset(token)


def get_patience() -> float:
    """Seconds for which the caller would wait for a store that does not answer."""
    return _patience_s.get()


_EXTRAS = {"gs": "gcs", "gcs": "gcs", "abfs": "azure", "abfss": "azure", "az": "azure"}
"""Extras of this package that bring the file system of a scheme."""


def locate(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it.

    fsspec's chains of file systems (`simplecache::s3://...`) are not taken apart: `::` is a part
    of a name like any other.

    Raises:
        PlaceError: The name is not one, the scheme is unknown, or its package is not installed.
    """
    if "\0" in uri or not is_utf8(uri):
        raise PlaceError(escape_name(uri), "a name with a NUL, or that is not UTF-8", "bad_name")
    scheme = _find_scheme(uri)
    try:
        kind = fsspec.get_filesystem_class(scheme)
        # Defaults of `fsspec.config` are applied by the class itself.
        fs = fsspec.filesystem(scheme, **kind._get_kwargs_from_urls(uri))
        return fs, kind._strip_protocol(uri)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:  # FTP connects at once
        raise PlaceError(uri, _describe(error), "connection_refused") from error
    except Exception as error:
        # Some file systems only work as a link of a chain, and fail in ways of their own.
        extra = _EXTRAS.get(_find_scheme(uri)) if isinstance(error, ImportError) else None
        sentence = f"needs the extra {extra}: pip install 's4v[{extra}]'" if extra else str(error)
        raise PlaceError(uri, sentence, "unsupported_scheme") from error


def _find_scheme(uri: str) -> str:
    # A local path may have `://` inside it.
    return "file" if uri.startswith("/") else fsspec.core.split_protocol(uri)[0] or "file"


def is_utf8(uri: str) -> bool:
    """Whether a name can be stored as text: names on Linux disks are any bytes."""
    try:
        uri.encode()
    except UnicodeEncodeError:
        return False
    return True


def locate_uncached(uri: str) -> tuple[Any, str]:
    """`locate`, after dropping what the file system remembers of earlier listings."""
    fs, path = locate(uri)
    fs.invalidate_cache()
    return fs, path


def call_store(uri: str, attempt: Callable[[], _T], writing: bool = False) -> _T:
    """Call `attempt` and return its result. After a transient error it is called again, so it must
    be safe to repeat.

    Args:
        writing: A missing path is a FileNotFoundError for a read and a StorageError for a write.

    Raises:
        FileNotFoundError: A path is missing, unless `writing`.
        FileExistsError: Passed on as it is.
        PlaceError: This place cannot be read, and the store says why.
        UnreachableError: Transient errors lasted longer than the caller's patience.
        StorageError: Everything else.
    """
    remote = _find_scheme(uri) not in LocalFileSystem.protocol
    deadline = time.monotonic() + _patience_s.get()
    wait_s = _FIRST_WAIT_S
    while True:
        try:
            with _LIMITER.enter(remote):
                return attempt()
        except (StorageError, FileExistsError):
            raise
        except Exception as error:
            if not writing:
                _raise_for_place(uri, error)
            if type(error).__name__ in _MISSING_CREDENTIALS:
                raise NoCredentialsError(uri, _describe(error)) from error
            if not remote or not _is_transient(error):
                raise StorageError(uri, _describe(error)) from error
            if time.monotonic() > deadline:
                raise UnreachableError(uri, _describe(error)) from error
        time.sleep(random.uniform(0, wait_s))
        wait_s = min(2 * wait_s, _LONGEST_WAIT_S)


def run_async(
    fs: Any, function: Callable[..., Coroutine[Any, Any, _T]], *args: Any, limit_s: float
) -> _T:
    """Run a coroutine function on the event loop of an asynchronous file system.

    The limit of `limit_s` seconds is needed because a body that arrives byte by byte never
    triggers the client's own time-outs.
    """

    async def run_limited() -> _T:
        return await asyncio.wait_for(function(*args), limit_s)

    result: _T = fsspec.asyn.sync(fs.loop, run_limited)
    return result


def _raise_for_place(uri: str, error: Exception) -> None:
    """Raise what a failed read says about its place, if it says anything."""
    # A path below a file is as absent as one below a missing folder.
    if isinstance(error, FileNotFoundError | NotADirectoryError):
        raise FileNotFoundError(errno.ENOENT, "no such file", uri) from error
    reason = find_reason(error)
    if reason == "not_found":
        raise FileNotFoundError(errno.ENOENT, "no such file", uri) from error
    if reason:
        raise PlaceError(uri, _describe(error), reason) from error


def _is_transient(error: Exception) -> bool:
    """Whether the same call may succeed a little later."""
    if isinstance(error, _PERMANENT_ERRORS) or type(error).__name__ in _PERMANENT_NAMES:
        return False
    if isinstance(error, OSError):
        return error.errno not in _PERMANENT_NUMBERS
    return isinstance(error, TimeoutError) or type(error).__module__.split(".")[0] in _CLIENTS


def _describe(error: Exception) -> str:
    """The client's own error text: the file system's translation of it may have none."""
    cause = error.__cause__ or error
    return f"{type(cause).__name__}: {cause}"


class _LoadLimiter:
    """Limits the calls in flight: halves the limit after each refusal for load, and raises it
    slowly while calls succeed (additive increase, multiplicative decrease)."""

    def __init__(self, max_calls: int) -> None:
        self._max_calls = self._allowed = float(max_calls)
        self._in_flight = 0
        self._changed = threading.Condition()

    @contextmanager
    def enter(self, remote: bool) -> Iterator[None]:
        """Wait until one more call is allowed; local calls are not limited."""
        if not remote:
            yield
            return
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight < max(self._allowed, 1))
            self._in_flight += 1
        try:
            yield
            self._set_allowed(self._allowed + 1 / max(self._allowed, 1))
        except OSError as error:
            if error.errno == errno.EBUSY:  # s3fs translates SlowDown and 503 into this
                self._set_allowed(self._allowed / 2)
            raise
        finally:
            with self._changed:
                self._in_flight -= 1
                self._changed.notify()

    def _set_allowed(self, allowed: float) -> None:
        with self._changed:
            self._allowed = min(max(allowed, 1.0), self._max_calls)
            self._changed.notify_all()


_LIMITER = _LoadLimiter(_MAX_CALLS)
