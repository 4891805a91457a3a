"""API keys: a file of names and SHA-256 digests, and who a secret belongs to.

A secret is shown once, when it is made; no file, error or log of ours ever holds one.
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
"""Characters; a longer one is refused unseen, for hashing takes time by its length."""

NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
DIGEST = re.compile(r"[0-9a-fA-F]{64}")
LIMIT = re.compile(r"(requests_per_minute|concurrent)=([1-9][0-9]{0,6})")
LINE = "name sha256hex [requests_per_minute=N] [concurrent=N]"


@dataclass(frozen=True, slots=True)
class Key:
    """Somebody who may ask, and how much; a limit that is None is the guard's own."""

    name: str
    digest: bytes = field(repr=False)
    requests_per_minute: int | None = None
    concurrent: int | None = None


class Keyring:
    """The keys that are known."""

    def __init__(self, keys: Iterable[Key] = ()) -> None:
        self._keys = keys if isinstance(keys, tuple) else tuple(keys)

    def find(self, secret: str) -> Key | None:
        """The key of `secret`. Takes the same time whatever is known and wherever it stands."""
        if not 0 < len(secret) <= LONGEST_SECRET:
            return None
        digest = hashlib.sha256(secret.encode("utf-8", "surrogatepass")).digest()
        found = None
        for key in self._keys:
            if secrets.compare_digest(key.digest, digest):
                found = key
        return found


def open_keyring(path: str) -> Keyring:
    """The keys of the file at `path`; of none where it is empty."""
    return Keyring(read_keys(path) if path else ())


def read_keys(path: str | Path) -> tuple[Key, ...]:
    """One key per line of the file, `#` starts a comment.

    Raises:
        ConfigError: the file or a line is not usable; never with what the line holds.
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
            keys.append(_parsed(words, place))
            _refuse_twins(keys, place)
    return tuple(keys)


def _parsed(words: Sequence[str], place: str) -> Key:
    # What was found stays unsaid: a secret may have been pasted in the wrong column.
    if not NAME.fullmatch(words[0]):
        raise ConfigError(f"{place}: the name is not 1 to 64 of A-Z a-z 0-9 . _ -")
    if len(words) < 2 or not DIGEST.fullmatch(words[1]):
        raise ConfigError(f"{place}: the second word is not a SHA-256 in 64 hex digits")
    limits: dict[str, int] = {}
    for word in words[2:]:
        limit = LIMIT.fullmatch(word)
        if limit is None or limit[1] in limits:
            raise ConfigError(f"{place}: allowed is {LINE}, each limit once and from 1 to 9999999")
        limits[limit[1]] = int(limit[2])
    return Key(words[0], bytes.fromhex(words[1]), **limits)


def _refuse_twins(keys: Sequence[Key], place: str) -> None:
    last = keys[-1]
    if any(key.name == last.name for key in keys[:-1]):
        raise ConfigError(f"{place}: the name stands in an earlier line already")
    if any(key.digest == last.digest for key in keys[:-1]):
        raise ConfigError(f"{place}: the SHA-256 stands in an earlier line already")


def new_key(name: str) -> tuple[str, str]:
    """A secret for `name`, and its line for the keys file.

    Raises:
        ConfigError: the name is not allowed.
    """
    if not NAME.fullmatch(name):
        raise ConfigError("the name of a key is 1 to 64 of A-Z a-z 0-9 . _ -")
    secret = f"s4v-{secrets.token_urlsafe(32)}"
    return secret, f"{name} {hashlib.sha256(secret.encode()).hexdigest()}"


def main(argv: Sequence[str] | None = None) -> int:
    """Makes a key and shows it, once; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m serve.keys",
        description="Make an API key: its secret, which is shown this once, then its line to "
        f"append to the keys file ({LINE}).",
    )
    parser.add_argument("name", help="whose key it is: 1 to 64 of A-Z a-z 0-9 . _ -")
    try:
        secret, line = new_key(parser.parse_args(argv).name)
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    sys.stdout.write(f"{secret}\n{line}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
