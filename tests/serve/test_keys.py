import hashlib
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from s4v_core.errors import ConfigError
from serve import keys
from serve.keys import LONGEST_SECRET, Key, Keyring, make_key, open_keyring, read_keys

ROOT = Path(__file__).resolve().parents[2]


def digest(secret: str) -> bytes:
    return hashlib.sha256(secret.encode()).digest()


def key(name: str, secret: str) -> Key:
    return Key(name, digest(secret))


def written(folder: Path, text: str) -> Path:
    path = folder / "keys.txt"
    path.write_text(text)
    return path


def test_a_new_key_is_found_by_its_secret_and_by_nothing_else(tmp_path: Path) -> None:
    secret, line = make_key("alice")
    path = written(tmp_path, f"# ours\n\n{line} requests_per_minute=5 concurrent=2 # till May\n")
    ring = open_keyring(str(path))
    assert ring.find(secret) == Key("alice", digest(secret), 5, 2)
    for other in (
        "",
        secret[:-1],
        secret + "a",
        secret.upper(),
        line.split()[1],
        "alice",
        "\udcff",
    ):
        assert ring.find(other) is None


def test_secrets_are_long_and_never_the_same() -> None:
    made = {make_key("alice")[0] for _ in range(100)}
    assert len(made) == 100
    assert all(secret.startswith("s4v-") and len(secret) == 47 for secret in made)


def test_without_a_file_no_key_is_known() -> None:
    assert open_keyring("").find("anything") is None
    assert Keyring().find("") is None


def test_a_key_does_not_show_its_digest() -> None:
    assert digest("s").hex() not in repr(key("a", "s"))
    assert repr(digest("s")) not in repr(key("a", "s"))


GOOD = "ab" * 32


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("alice", "second word"),
        (f"alice {GOOD[:-1]}", "second word"),
        (f"alice {GOOD}0", "second word"),
        (f"alice sha256:{GOOD}", "second word"),
        (f"al/ice {GOOD}", "name"),
        (f"{'a' * 65} {GOOD}", "name"),
        (f"älice {GOOD}", "name"),
        (f"alice {GOOD} concurrent=0", "allowed"),
        (f"alice {GOOD} concurrent=-1", "allowed"),
        (f"alice {GOOD} concurrent=1.5", "allowed"),
        (f"alice {GOOD} concurrent=2 concurrent=3", "allowed"),
        (f"alice {GOOD} requests=2", "allowed"),
        (f"alice {GOOD} requests_per_minute=99999999", "allowed"),
        (f"bob {GOOD}", "name stands in an earlier"),
        (f"carol {'0' * 64}", "SHA-256 stands in an earlier"),
    ],
)
def test_a_wrong_line_is_named_by_its_number_and_not_shown(
    tmp_path: Path, line: str, problem: str
) -> None:
    path = written(tmp_path, f"# first\nbob {'0' * 64}\n{line}\n")
    with pytest.raises(ConfigError, match=problem) as error:
        read_keys(path)
    assert "line 3" in str(error.value)
    assert "\n" not in str(error.value)
    assert not [word for word in line.split() if len(word) > 12 and word in str(error.value)]


def test_a_file_that_cannot_be_read_is_reported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_keys(tmp_path / "absent")
    (tmp_path / "keys.bin").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="not UTF-8"):
        read_keys(tmp_path / "keys.bin")


def test_a_file_of_another_system_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.txt"
    path.write_bytes(b"\xef\xbb\xbf" + f"alice {GOOD.upper()}\r\n".encode())
    assert read_keys(path) == (Key("alice", bytes.fromhex(GOOD)),)


class Counted(tuple[Key, ...]):
    """Keys that count how many of them were compared."""

    compared = 0

    def __iter__(self) -> Iterator[Key]:
        for found in super().__iter__():
            self.compared += 1
            yield found


@pytest.mark.parametrize("place", [0, 9, None])
def test_every_key_is_compared_wherever_the_matching_one_is(place: int | None) -> None:
    known = Counted(key(f"k{n}", f"secret {n}") for n in range(10))
    found = Keyring(known).find("none of them" if place is None else f"secret {place}")
    assert (found.name if found else None) == (None if place is None else f"k{place}")
    assert known.compared == 10


def test_a_secret_that_is_too_long_is_refused_before_it_is_hashed() -> None:
    longest, longer = "x" * LONGEST_SECRET, "x" * (LONGEST_SECRET + 1)
    known = Counted((key("longest", longest), key("longer", longer)))
    assert Keyring(known).find(longest) == known[0]
    known.compared = 0
    assert Keyring(known).find(longer) is None
    assert known.compared == 0


def test_the_time_of_a_refusal_does_not_reveal_how_much_of_a_digest_matched() -> None:
    near, far = "s4v-" + "n" * 43, "s4v-" + "f" * 43
    close = digest(near)[:31] + bytes([digest(near)[31] ^ 1])
    assert digest(far)[0] != close[0]
    ring = Keyring((*(key(f"k{n}", f"{n}") for n in range(4)), Key("close", close)))
    # One measurement in a hundred is below 0.01 by chance alone, and more beside other work; a leak
    # is in all of them.
    assert any(_p_value(ring, near, far, seed) > 0.01 for seed in range(8))


def _p_value(ring: Keyring, near: str, far: str, seed: int) -> float:
    """Welch's test on the shortest of each ten of 2 x 10,000 look-ups, taken in turns."""
    order = random.Random(seed)
    took: dict[str, list[int]] = {near: [], far: []}
    for _ in range(10_000):
        for secret in order.sample([near, far], 2):
            since = time.perf_counter_ns()
            ring.find(secret)
            took[secret].append(time.perf_counter_ns() - since)
    shortest = [np.array(took[secret]).reshape(-1, 10).min(axis=1) for secret in (near, far)]
    return float(stats.ttest_ind(*shortest, equal_var=False).pvalue)


def _command(*words: str) -> "subprocess.CompletedProcess[str]":
    command = [sys.executable, "-m", "serve.keys", *words]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=120)


def test_the_command_shows_the_secret_once_and_the_line_to_append(tmp_path: Path) -> None:
    done = _command("alice")
    assert done.returncode == 0, done.stderr
    secret, line = done.stdout.splitlines()
    (found,) = read_keys(written(tmp_path, line))
    assert found == key("alice", secret)
    assert (done.stdout + done.stderr).count(secret) == 1


@pytest.mark.parametrize("name", ["", "a b", "../x", "a" * 65, "a\n"])
def test_the_command_refuses_a_bad_name_in_a_sentence(
    name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert keys.main([name]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1


def test_the_command_helps() -> None:
    done = _command("--help")
    assert done.returncode == 0
    assert "keys file" in done.stdout
