"""Benchmarks in turn, and their tables in RESULTS.md: `make bench`.

python -m tests.perf [NAME ...]

Without a name these are all of the pass and of training; those of the endpoints go apart (`make
bench-serve`), for together they take too long. Each is a module of this folder that says in
its first lines what it measures, why, and how to read it. One that fails says so in its place, and
the others go on.
"""

import json
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from tests.perf.measuring import RESULTS, Goal, recorded

BENCHMARKS = (
    *("against_others", "feed_rate", "indexing", "data_moved", "resume", "whole_run", "training"),
)
ENDPOINTS = ("serve_overhead", "serve_load")
ALL = BENCHMARKS + ENDPOINTS
PAGE = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- benchmarks -->\n", "<!-- end of benchmarks -->\n"


def main(names: list[str]) -> int:
    """1 if one of them failed, 2 for a name that is none."""
    if unknown := set(names) - set(ALL):
        print(f"error: found {min(unknown)!r}, allowed {', '.join(ALL)}", file=sys.stderr)  # noqa: T201
        return 2
    failed = [name for name in names or BENCHMARKS if not _ran(name)]
    verdicts = _verdicts()
    print(verdicts)  # noqa: T201
    _write_page(verdicts)
    return int(bool(failed))


def _ran(name: str) -> bool:
    started = time.monotonic()
    print(f"== {name}", flush=True)  # noqa: T201
    try:
        # By its own name: as __main__ what it defines could not travel to processes of a pool.
        import_module(f"tests.perf.{name}").main()
    # Border to whatever a benchmark runs into: the others are worth having.
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return False
    took_s = round(time.monotonic() - started)
    print(f"   {took_s} s", flush=True)  # noqa: T201
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"took_s": took_s}, indent=1) + "\n")
    return True


def _verdicts() -> str:
    """Of all goals, by the figures that are there."""
    lines = ["| goal | found | limit | verdict |", "|---|---|---|---|"]
    for name in BENCHMARKS:
        if figures := recorded(name):
            lines += map(_line, import_module(f"tests.perf.{name}").goals(figures))
    return "\n".join(lines)


def _line(goal: Goal) -> str:
    limit = f"{'at least' if goal.at_least else 'at most'} {goal.limit:.4g}"
    return f"| {goal.what} | {goal.found:.3f} | {limit} | {'holds' if goal.holds else 'missed'} |"


def _write_page(verdicts: str) -> None:
    """Puts the tables where the page has its marks."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    sections = [_section(name) for name in ALL if (RESULTS / f"{name}.json").exists()]
    PAGE.write_text(before + BEGIN + "\n".join([f"\n{verdicts}\n", *sections]) + "\n" + END + after)


def _section(name: str) -> str:
    found = json.loads((RESULTS / f"{name}.json").read_text())
    machine = found["machine"]
    title = (import_module(f"tests.perf.{name}").__doc__ or name).splitlines()[0]
    versions = ", ".join(f"{package} {version}" for package, version in machine["versions"].items())
    about = f"{machine['date']}, {machine['cores']} cores ({machine['processor']}), {versions}"
    if "stolen_share" in found:
        about += f"; {found['stolen_share']:.0%} of their time went to other guests of the host"
    if "took_s" in found:
        about += f"; took {found['took_s'] / 60:.0f} min"
    return f"### {title}\n\n`python -m tests.perf.{name}`; {about}.\n\n{found['table']}\n"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
