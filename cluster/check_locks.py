"""Checks that a lock lets nothing be installed but the very files that were locked.

Prints one sentence for each requirement without a sha256 hash, and then exits with code 1.
"""

import re
import sys
from pathlib import Path

WITHOUT_HASH = {"cpu": {"torch", "torchvision"}, "gpu": set[str]()}
"""The packages of each lock that need no hash: the CPU builds of these two come from one of two
places (install.sh), whose files differ."""

_PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==[^\s;]+(?: *;.*)?")
_HASHES = re.compile(r"( --hash=sha256:[0-9a-f]{64})+")


def find_faults(build: str, lock: str) -> list[str]:
    """Return a sentence for each requirement in the text `lock` that breaks the rule."""
    place = f"cluster/{build}/lock.txt"
    faults = []
    for line in lock.replace(" \\\n   ", "").splitlines():
        requirement, mark, digests = line.partition(" --hash=")
        hashes = mark + digests
        pin = _PIN.fullmatch(requirement)
        if not pin:
            faults.append(f"{place}: {line!r} is no exact version of a package.")
        elif not _HASHES.fullmatch(hashes) and (hashes or pin["name"] not in WITHOUT_HASH[build]):
            faults.append(f"{place}: {requirement} has no complete sha256 hash.")
    return faults


def main() -> int:
    here = Path(__file__).parent
    faults = [
        fault
        for build in WITHOUT_HASH
        for fault in find_faults(build, (here / build / "lock.txt").read_text())
    ]
    print(*faults, sep="\n", end="\n" if faults else "")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
