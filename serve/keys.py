"""API keys: reads the file of names and SHA-256 digests, and finds the key of a secret.

A secret is shown once, when it is made; no file, error or log of this program ever holds one.
`python -m serve.keys alice` makes a key.
"""

import argparse
import hashlib
import re
import secrets
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from s4v_core.errors import ConfigError

LONGEST_SECRET = 512
"""Longest secret in characters. A longer one is refused before it is hashed, because the time to
hash it grows with its length."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
_DIGEST = re.compile(r"[0-9a-fA-F]{64}")
_LIMIT = re.compile(r"(requests_per_minute|concurrent)=([1-9][0-9]{0,6})")
_LINE_FORMAT = "name sha256hex [requests_per_minute=N] [concurrent=N]"


@dataclass(frozen=True, slots=True)
class Key:
    """A known key and its limits.

    Attributes:
        name: Name of the key, as it appears in logs.
        digest: SHA-256 of the secret.
        requests_per_minute: Requests that the key may send per minute; None: the guard's default.
        concurrent: Requests that the key may run at a time; None: the guard's default.
    """

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    concurrent: int | None = None


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


def open_keyring(path: str) -> Keyring:
    """Read the keys of the file at `path`. An empty path gives a keyring without keys.

    Raises:
        ConfigError: The file or one of its lines cannot be used.
    """
    return Keyring(read_keys(path) if path else ())


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
    limits: dict[str, int] = {}
    for word in words[2:]:
        limit = _LIMIT.fullmatch(word)
        if limit is None or limit[1] in limits:
            raise ConfigError(
                f"{place}: allowed is {_LINE_FORMAT}, each limit once and from 1 to 9999999"
            )
        limits[limit[1]] = int(limit[2])
    return Key(words[0], bytes.fromhex(words[1]), **limits)


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
