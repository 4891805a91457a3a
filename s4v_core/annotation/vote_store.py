"""Votes of people about items, in one SQLite file: a vote that `add` returned from is durable.

The file holds the items too, in the order in which they were drawn, so that a study goes on with
the same ones. Votes are only ever appended; of two votes of a rater about an item the later counts.
"""

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from s4v_core import storage
from s4v_core.annotation.questions import Item
from s4v_core.errors import ConfigError, InputError, StorageError

_TABLES = (
    "CREATE TABLE facts (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT",
    "CREATE TABLE items (number INTEGER PRIMARY KEY, item_id TEXT NOT NULL UNIQUE, "
    "about TEXT NOT NULL) STRICT",
    "CREATE TABLE votes (id INTEGER PRIMARY KEY AUTOINCREMENT, rater TEXT NOT NULL, "
    "item INTEGER NOT NULL REFERENCES items, choice TEXT NOT NULL, answer TEXT NOT NULL, "
    "seconds REAL NOT NULL, voted_at TEXT NOT NULL) STRICT",
)

_SECRET_BYTES = 16
_VOTES = "votes.sqlite"


@dataclass(frozen=True, slots=True)
class Vote:
    """A rater's answer about an item.

    Attributes:
        item: Number of the item.
        choice: What was chosen on the page, such as a side.
        answer: What it means, such as the caption on that side.
        seconds: How long the rater looked at the item.
    """

    rater: str
    item: int
    choice: str
    answer: str
    seconds: float = 0.0


class VoteStore:
    """An open file of votes. Safe for several threads of one process.

    Attributes:
        settings: What the study was begun with.
        secret: A text that nobody else knows, drawn when the file was made.
        items: The items in their order.
    """

    def __init__(self, path: Path) -> None:
        """Open a file that `create_votes` made.

        Raises:
            InputError: There is none, or it is no file of votes.
        """
        self.path = path
        self._lock = threading.Lock()
        self._connection = _connect(path)
        with self._reading():
            facts = dict(self._connection.execute("SELECT name, value FROM facts"))
            rows = self._connection.execute("SELECT item_id, about FROM items ORDER BY number")
            self.items = [Item(item_id, json.loads(about)) for item_id, about in rows]
            self.settings: dict[str, Any] = json.loads(facts["settings"])
            self.secret = facts["secret"]

    def add_items(self, items: Iterable[Item]) -> int:
        """Append the items that are new, and return their number. Votes about the others stay.

        Raises:
            ConfigError: An item of the same name is another one.
            StorageError: The disk is full or fails; none is added.
        """
        known = {item.item_id: item for item in self.items}
        # Compared as JSON keeps them, which has no tuples.
        given = [Item(item.item_id, json.loads(_dump(item.about))) for item in items]
        for item in given:
            if known.get(item.item_id, item) != item:
                raise ConfigError(
                    f"votes: {self.path} holds votes about another {item.item_id!r} than the one "
                    "of now; choose another folder for them"
                )
        new = [item for item in given if item.item_id not in known]
        try:
            with self._lock, self._connection:
                _insert_items(self._connection, new, len(self.items))
        except sqlite3.Error as error:
            raise StorageError(str(self.path), f"the items are not saved: {error}") from error
        self.items += new
        return len(new)

    def add(self, vote: Vote) -> None:
        """Append a vote; it is on the disk when this returns.

        Raises:
            StorageError: The disk is full or fails; the vote does not count.
        """
        row = (vote.rater, vote.item, vote.choice, vote.answer, vote.seconds)
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        try:
            with self._lock, self._connection:
                self._connection.execute(
                    "INSERT INTO votes (rater, item, choice, answer, seconds, voted_at) "
                    "VALUES (?, ?, ?, ?, ?, ?)",
                    (*row, now),
                )
        except sqlite3.Error as error:
            raise StorageError(str(self.path), f"the vote is not saved: {error}") from error

    def read_votes(self) -> list[Vote]:
        """The votes that count, in the order in which they were cast."""
        with self._reading():
            rows = self._connection.execute(
                "SELECT rater, item, choice, answer, seconds FROM votes WHERE id IN "
                "(SELECT max(id) FROM votes GROUP BY rater, item) ORDER BY id"
            )
            return [Vote(*row) for row in rows]

    @contextmanager
    def serving(self) -> Iterator[None]:
        """Be the only process that takes votes; others may read meanwhile. The lock ends with the
        process, however that ends.

        Raises:
            ConfigError: Another process takes votes.
        """
        lock = FileLock(f"{self.path}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout as error:
            raise ConfigError(
                f"output: {self.path.parent} is in use by another process that takes votes; end "
                "that one first, or use --results"
            ) from error
        try:
            yield
        finally:
            lock.release()

    def close(self) -> None:
        with self._lock:
            self._connection.close()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        try:
            with self._lock:
                yield
        except sqlite3.Error as error:
            raise InputError(str(self.path), f"is no file of votes: {error}") from error


def find_votes(flag: str, folder: str) -> Path:
    """The file of votes in a folder.

    Args:
        flag: Flag that named the folder, for the message.

    Raises:
        ConfigError: The folder is in a store, where a database cannot be.
    """
    if not storage.is_local(folder):
        raise ConfigError(
            f"{flag}: found {folder!r}, allowed a folder on a disk of this machine, because votes "
            "are kept in a database"
        )
    return Path(storage.absolute(folder)) / _VOTES


def has_votes(path: Path) -> bool:
    """Whether `path` is a file that `create_votes` finished. One that it was killed in is not."""
    if not path.is_file():
        return False
    try:
        with closing(_connect(path)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'votes'")
            return found.fetchone() is not None
    except sqlite3.Error as error:
        raise InputError(str(path), f"is no file of votes: {error}") from error


def create_votes(path: Path, settings: Mapping[str, Any], items: Iterable[Item]) -> None:
    """Make a file of votes, all at once: after a kill it is whole or has no tables.

    Raises:
        StorageError: It cannot be written.
    """
    facts = {"settings": json.dumps(dict(settings)), "secret": secrets.token_urlsafe(_SECRET_BYTES)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with closing(_connect(path, is_new=True)) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for table in _TABLES:
                connection.execute(table)
            connection.executemany("INSERT INTO facts VALUES (?, ?)", facts.items())
            _insert_items(connection, items, 0)
            connection.commit()
    except (sqlite3.Error, OSError) as error:
        raise StorageError(str(path), f"cannot be written: {error}") from error


def _insert_items(connection: sqlite3.Connection, items: Iterable[Item], start: int) -> None:
    rows = [(at, item.item_id, _dump(item.about)) for at, item in enumerate(items, start)]
    connection.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)


def _dump(about: Mapping[str, Any]) -> str:
    return json.dumps(about, ensure_ascii=False)


def _connect(path: Path, is_new: bool = False) -> sqlite3.Connection:
    """Open a file such that a commit returns only when it is on the disk."""
    mode = "rwc" if is_new else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}", uri=True, check_same_thread=False, timeout=30
    )
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")  # WAL alone would keep a commit in memory
    connection.execute("PRAGMA foreign_keys = ON")
    return connection
