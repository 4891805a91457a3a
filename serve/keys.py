"""API keys: reads the file of names and SHA-256 digests, and finds the key of a secret. A file that
changes is read again within seconds.

A secret is shown once, when it is made; no file, error or log of this program ever holds one.
`python -m serve.keys alice` makes a key.
"""

import argparse
import hashlib
import logging
import math
import os
import re
import secrets
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from s4v_core.errors import ConfigError

logger = logging.getLogger(__name__)

POLL_S = 1.0
"""Seconds between two looks at the keys file, and for which a change must have settled: an editor
writes a file in several steps, and half a file would lock half of the clients out."""

LONGEST_SECRET = 512
"""Longest secret in characters. A longer one is refused before it is hashed, because the time to
hash it grows with its length."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LIMIT = re.compile(r"(requests_per_minute|concurrent)=([1-9][0-9]{0,6})")
_EXPIRY = re.compile(r"expires=([0-9]{4}-[0-9]{2}-[0-9]{2}(?:T[0-9]{2}:[0-9]{2}(?::[0-9]{2})?Z)?)")
_MODELS = re.compile(r"models=([A-Za-z0-9._-]{1,64}(?:,[A-Za-z0-9._-]{1,64})*)")
_LINE_FORMAT = (
    "name sha256hex [requests_per_minute=N] [concurrent=N] [expires=2027-12-31] [models=A,B]"
)


@dataclass(frozen=True, slots=True)
class Key:
    """A known key and its limits.

    Attributes:
        name: Name of the key, as it appears in logs.
        digest: SHA-256 of the secret.
        requests_per_minute: Requests that the key may send per minute; None: the guard's default.
        concurrent: Requests that the key may run at a time; None: the guard's default.
        expires: Second of the Unix clock from which the key no longer works; None: never.
        models: Ids of the models that the key may use; None: all.
    """

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    concurrent: int | None = None
    expires: float | None = None
    models: frozenset[str] | None = None

    def has_expired(self) -> bool:
        """Whether the key no longer works."""
        return self.expires is not None and time.time() >= self.expires

    def allows(self, model: str) -> bool:
        """Whether the key may use a model."""
        return self.models is None or model in self.models


class Keyring:
    """The known keys."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = keys if isinstance(keys, tuple) else tuple(keys)

    def find(self, secret: str) -> Key | None:
        """Find the key of `secret`. The time taken does not depend on which key matches, or how far
        a digest matches."""
        if not 0 < len(secret) <= LONGEST_SECRET:
            return None
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        match = None
        for key in self._keys:
            if secrets.compare_digest(key.digest, digest):
                match = key
        return match


class WatchedKeyring(Keyring):
    """The keys of a file, which is read again when it changes.

    A file that cannot be read or has a wrong line changes nothing: the keys known before stay, and
    the log says why. A copy of this object on another node watches the file of that node.
    """

    def __init__(self, path: str, clock: Callable[[], float] = time.monotonic) -> None:
        """Read the file.

        Raises:
            ConfigError: The file or one of its lines cannot be used.
        """
        super().__init__(read_keys(path))
        self._path, self._clock = path, clock
        self._next_look = -math.inf
        self._read = self._noticed = _identify(path)

    def __getstate__(self) -> dict[str, Any]:
        # Clocks and file numbers of another node mean nothing there.
        return self.__dict__ | {"_next_look": -math.inf, "_read": (), "_noticed": ()}

    def find(self, secret: str) -> Key | None:
        if self._clock() >= self._next_look:
            self._next_look = self._clock() + POLL_S
            self._look()
        return super().find(secret)

    def _look(self) -> None:
        found = _identify(self._path)
        has_settled = found == self._noticed or _is_old(found)
        self._noticed = found
        if found == self._read or not has_settled:
            return
        self._read = found
        try:
            self._keys = read_keys(self._path)
        except ConfigError as error:
            logger.error("%s; the %d keys known before stay valid", error, len(self._keys))
        else:
            logger.warning("keys file %s was read again: %d keys", self._path, len(self._keys))


def _identify(path: str) -> tuple[int, ...]:
    """Numbers that change with a file, also where a link to it moves on; empty without a file."""
    try:
        found = os.stat(path)
    except OSError:
        return ()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _is_old(identity: tuple[int, ...]) -> bool:
    """Whether a file was last written long enough ago to be whole."""
    return bool(identity) and time.time() - identity[-1] / 1e9 > POLL_S


def open_keyring(path: str) -> Keyring:
    """Read the keys of the file at `path` and watch it. An empty path gives a keyring without any.

    Raises:
        ConfigError: The file or one of its lines cannot be used.
    """
    return WatchedKeyring(path) if path else Keyring()


def read_keys(path: str | Path) -> tuple[Key, ...]:
    """Read a file with one key per line, in which `#` starts a comment.

    Raises:
        ConfigError: The file or one of its lines cannot be used. The error never quotes the line.
    """
    try:
        text = Path(path).read_text("utf-8-sig")
    except UnicodeDecodeError:
        raise ConfigError(f"keys file {path}: found bytes that are not UTF-8 text") from None
    except OSError as error:
        raise ConfigError(f"keys file {path} cannot be read: {error.strerror}") from None
    keys: list[Key] = []
    for number, line in enumerate(text.split("\n"), 1):
        words = line.partition("#")[0].split()
        if words:
            place = f"keys file {path}, line {number}"
            keys.append(_parse_key(words, place))
            _refuse_duplicate(keys, place)
    return tuple(keys)


def _parse_key(words: Sequence[str], place: str) -> Key:
    # No error quotes the line: a secret may have been pasted into the wrong column.
    if not _NAME.fullmatch(words[0]):
        raise ConfigError(f"{place}: the name is not 1 to 64 of A-Z a-z 0-9 . _ -")
    if len(words) < 2 or not _DIGEST.fullmatch(words[1]):
        raise ConfigError(f"{place}: the second word is not a SHA-256 in 64 hex digits")
    options: dict[str, Any] = {}
    for word in words[2:]:
        name, value = _parse_option(word)
        if not name or name in options:
            raise ConfigError(
                f"{place}: allowed is {_LINE_FORMAT}, each word once, numbers from 1 to 9999999"
            )
        options[name] = value
    return Key(words[0], bytes.fromhex(words[1]), **options)


def _parse_option(word: str) -> tuple[str, Any]:
    """Name and value of one word behind the digest; an empty name if it is not allowed."""
    if limit := _LIMIT.fullmatch(word):
        return limit[1], int(limit[2])
    if models := _MODELS.fullmatch(word):
        return "models", frozenset(models[1].split(","))
    if expiry := _EXPIRY.fullmatch(word):
        try:
            moment = datetime.fromisoformat(expiry[1])
        except ValueError:  # the 31st of February
            return "", None
        # A day is meant whole, and as it is in UTC.
        moment = moment if "T" in expiry[1] else moment + timedelta(days=1)
        return "expires", moment.replace(tzinfo=UTC).timestamp()
    return "", None


def _refuse_duplicate(keys: Sequence[Key], place: str) -> None:
    last = keys[-1]
    if any(key.name == last.name for key in keys[:-1]):
        raise ConfigError(f"{place}: the name stands in an earlier line already")
    if any(key.digest == last.digest for key in keys[:-1]):
        raise ConfigError(f"{place}: the SHA-256 stands in an earlier line already")


def make_key(name: str) -> tuple[str, str]:
    """Make a secret for `name`. Returns the secret and its line for the keys file.

    Raises:
        ConfigError: The name is not allowed.
    """
    if not _NAME.fullmatch(name):
        raise ConfigError("the name of a key is 1 to 64 of A-Z a-z 0-9 . _ -")
    secret = f"s4v-{secrets.token_urlsafe(32)}"
    return secret, f"{name} {hashlib.sha256(secret.encode()).hexdigest()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Make a key and print it, which is the only time it is shown. Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m serve.keys",
        description="Make an API key. The first line of output is its secret, which is shown only "
        f"this once; the second is the line to append to the keys file ({_LINE_FORMAT}).",
    )
    parser.add_argument("name", help="Owner of the key: 1 to 64 of A-Z a-z 0-9 . _ -")
    try:
        secret, line = make_key(parser.parse_args(argv).name)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{secret}\n{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
