"""Lock file in, lock file out: torch and torchvision lose their hashes and their local version.

Their CPU builds come from one of two places (install.sh), whose files differ.
"""

import re
import sys

lock = sys.stdin.read()
sys.stdout.write(
    re.sub(
        r"(?m)^(torch|torchvision)==([\d.]+)\S* \\\n(?: +--hash=\S+(?: \\)?\n)+", r"\1==\2\n", lock
    )
)
