"""Runs benchmarks and writes their tables to RESULTS.md: `make bench`.

python -m tests.perf [NAME ...]

Without a name it runs all benchmarks of the pass and of training. Those of the endpoints run
separately (`make bench-serve`), because all together take too long. Each benchmark is a module of
this folder, whose docstring says what it measures, why, and how to read it. If one fails, its error
is printed and the others continue.
"""

import json
import sys
import time
import traceback
from importlib import import_module
from pathlib import Path

from tests.perf.measuring import RESULTS, Goal, read_record

BENCHMARKS = (
    *("against_others", "feed_rate", "indexing", "data_moved", "resume", "whole_run", "training"),
    *("fields_pass", "painting"),
)
ENDPOINTS = ("serve_overhead", "serve_chats", "serve_load")
ALL = BENCHMARKS + ENDPOINTS
PAGE = Path(__file__).parent / "RESULTS.md"
BEGIN, END = "<!-- benchmarks -->\n", "<!-- end of benchmarks -->\n"


def main(names: list[str]) -> int:
    """Run benchmarks; return 1 if one failed, and 2 if a name is unknown."""
    if unknown := set(names) - set(ALL):
        print(f"error: found {min(unknown)!r}, allowed {', '.join(ALL)}", file=sys.stderr)  # noqa: T201
        return 2
    failed = [name for name in names or BENCHMARKS if not _run_benchmark(name)]
    verdicts = _build_verdicts()
    print(verdicts)  # noqa: T201
    _write_page(verdicts)
    return int(bool(failed))


def _run_benchmark(name: str) -> bool:
    started = time.monotonic()
    print(f"== {name}", flush=True)  # noqa: T201
    try:
        # Imported by its own name: what __main__ defines cannot be sent to processes of a pool.
        import_module(f"tests.perf.{name}").main()
    # Whatever error one benchmark meets, the results of the others are still useful.
    except Exception:  # noqa: BLE001
        traceback.print_exc()
        return False
    took_s = round(time.monotonic() - started)
    print(f"   {took_s} s", flush=True)  # noqa: T201
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"took_s": took_s}, indent=1) + "\n")
    return True


def _build_verdicts() -> str:
    """Build the table of goals from all recorded figures."""
    lines = ["| goal | found | limit | verdict |", "|---|---|---|---|"]
    for name in BENCHMARKS:
        if figures := read_record(name):
            lines += map(_format_goal, import_module(f"tests.perf.{name}").goals(figures))
    return "\n".join(lines)


def _format_goal(goal: Goal) -> str:
    limit = f"{'at least' if goal.at_least else 'at most'} {goal.limit:.4g}"
    return f"| {goal.what} | {goal.found:.3f} | {limit} | {'holds' if goal.holds else 'missed'} |"


def _write_page(verdicts: str) -> None:
    """Write the tables between the two marks of the page."""
    page = PAGE.read_text()
    before, _, rest = page.partition(BEGIN)
    _, _, after = rest.partition(END)
    sections = [_build_section(name) for name in ALL if (RESULTS / f"{name}.json").exists()]
    PAGE.write_text(before + BEGIN + "\n".join([f"\n{verdicts}\n", *sections]) + "\n" + END + after)


def _build_section(name: str) -> str:
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
