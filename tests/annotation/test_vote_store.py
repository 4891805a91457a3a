import sqlite3
import threading
from pathlib import Path

import pytest

from s4v_core.annotation.questions import Item
from s4v_core.annotation.vote_store import Vote, VoteStore, create_votes, has_votes
from s4v_core.errors import ConfigError, InputError, StorageError


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "new folder?#%41" / "votes.sqlite"
    create_votes(path, {"n": 2}, [Item("two")])
    return path


def test_a_store_keeps_items_settings_and_votes(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    create_votes(path, {"n": 2}, [Item("one", {"text": "é\u2028"}), Item("two")])
    store = VoteStore(path)
    store.add(Vote("anna", 0, "left", "a", 1.5))
    store.close()
    again = VoteStore(path)
    assert again.read_votes() == [Vote("anna", 0, "left", "a", 1.5)]
    assert again.items == [Item("one", {"text": "é\u2028"}), Item("two")]
    assert again.settings == {"n": 2}
    assert again.secret == store.secret


def test_items_that_are_added_come_behind_the_others_and_leave_their_votes(path: Path) -> None:
    store = VoteStore(path)
    store.add(Vote("anna", 0, "left", "a"))
    new = Item("three", {"pair": ("x", "y")})
    assert store.add_items([new, Item("two")]) == 1
    assert store.add_items([new]) == 0  # JSON has no tuples, and that is no difference
    store.close()
    again = VoteStore(path)
    assert [item.item_id for item in again.items] == ["two", "three"]
    assert again.read_votes() == [Vote("anna", 0, "left", "a")]
    again.add(Vote("anna", 1, "left", "b"))
    with pytest.raises(ConfigError, match="about another 'two'"):
        again.add_items([Item("four"), Item("two", {"text": "other"})])
    assert [item.item_id for item in VoteStore(path).items] == ["two", "three"]


def test_of_two_votes_about_an_item_the_later_counts_and_both_are_kept(path: Path) -> None:
    store = VoteStore(path)
    for answer in ("a", "b"):
        store.add(Vote("anna", 0, "left", answer))
    store.add(Vote("bela", 0, "right", "a"))
    assert [(vote.rater, vote.answer) for vote in store.read_votes()] == [
        ("anna", "b"),
        ("bela", "a"),
    ]
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM votes").fetchone() == (3,)


def test_every_commit_waits_for_the_disk(path: Path) -> None:
    connection = VoteStore(path)._connection
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert connection.execute("PRAGMA synchronous").fetchone() == (2,)


def test_many_threads_lose_no_vote(path: Path) -> None:
    store = VoteStore(path)

    def vote(rater: str) -> None:
        for _ in range(20):
            store.add(Vote(rater, 0, "left", "a"))

    threads = [threading.Thread(target=vote, args=(f"r{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    with sqlite3.connect(path) as connection:
        assert connection.execute("SELECT count(*) FROM votes").fetchone() == (160,)


def test_a_full_disk_refuses_the_vote_and_the_next_one_may_succeed(path: Path) -> None:
    store = VoteStore(path)
    size = store._connection.execute("PRAGMA page_count").fetchone()[0]
    store._connection.execute(f"PRAGMA max_page_count = {size}")
    with pytest.raises(StorageError, match="is not saved: database or disk is full"):  # noqa: PT012
        for _ in range(1000):
            store.add(Vote("r" * 64, 0, "left", "a"))
    kept = len(store.read_votes())
    store._connection.execute(f"PRAGMA max_page_count = {size + 100}")
    store.add(Vote("anna", 0, "left", "a"))
    assert len(store.read_votes()) == kept + 1


def test_a_store_that_was_cut_off_while_it_was_made_is_made_again(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    with sqlite3.connect(path) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
    assert not has_votes(path)
    create_votes(path, {}, [Item("one")])
    assert has_votes(path)


def test_what_is_no_store_is_refused_and_stays_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    path.write_bytes(b"my notes" * 100)
    with pytest.raises(InputError, match="is no file of votes"):
        has_votes(path)
    assert path.read_bytes() == b"my notes" * 100


def test_one_process_takes_votes_and_others_read(path: Path) -> None:
    store, other = VoteStore(path), VoteStore(path)
    with store.serving():
        store.add(Vote("anna", 0, "left", "a"))
        assert len(other.read_votes()) == 1
        with pytest.raises(ConfigError, match="in use by another process"), other.serving():
            pass
    with other.serving():
        pass
