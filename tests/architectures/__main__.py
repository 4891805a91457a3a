"""Runs architectures through bare vLLM and this project's engines, and writes the table of
docs/models.md.

python -m tests.architectures [NAME ...]

Rows of architectures that are not named stay as they are. Takes about a minute per architecture.
"""

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.architectures.catalogue import ARCHITECTURES
from tests.architectures.trials import ROOT, Trial, Trials, find_missing_package

PAGE = ROOT / "docs" / "models.md"
BEGIN, END = "<!-- tried -->\n", "<!-- end of tried -->\n"
HEAD = (
    "| architecture | stands for | template lies in | taken | tokens of 2,400 x 1,600 "
    "| ids as bare vLLM | captions as bare vLLM | engine transformers |\n"
    "|---|---|---|---|---|---|---|---|\n"
)
LARGE = "drawn_04"
"""The picture of 2,400 x 1,600 pixels."""


def main(names: list[str]) -> int:
    """Try the named architectures, or all; 2 if a name is unknown."""
    if unknown := set(names) - ARCHITECTURES.keys():
        print(f"error: found {min(unknown)!r}, allowed {', '.join(ARCHITECTURES)}", file=sys.stderr)  # noqa: T201
        return 2
    wanted = names or list(ARCHITECTURES)
    with tempfile.TemporaryDirectory() as folder:
        trials = Trials(Path(folder), [n for n in wanted if not find_missing_package(n)])
        for name in wanted:
            row = _describe(trials, name)
            print(row, flush=True)  # noqa: T201
            _write_row(name, row)
    return 0


def _describe(trials: Trials, name: str) -> str:
    about = (ARCHITECTURES[name].build.__doc__ or "").partition("\n")[0].rstrip(".")
    if package := find_missing_package(name):
        cells = ["", "", "", "", f"its processor needs the package {package}", ""]
        return _join(name, about, *cells)
    trial = trials.build(name)
    bare = trials.ask_bare(name)
    if "error" in bare:
        return _join(name, about, _find_template(trial), "", "", "", _shorten(bare["error"]), "")
    size = bare["pictures"][LARGE].get("prompt_ids")
    ours, other = trials.ask_engine(name, "vllm"), trials.ask_engine(name, "transformers")
    return _join(
        name,
        about,
        _find_template(trial),
        trial.facts.template,
        f"{len(size):,}" if size else "refused",
        _compare(bare, ours, "prompt_ids"),
        _compare(bare, ours, "answer_ids"),
        _compare(bare, other, "text"),
    )


def _compare(bare: dict[str, Any], ours: dict[str, Any], part: str) -> str:
    if "error" in ours:
        return _shorten(ours["error"])
    pairs = [(answer, ours["pictures"][name]) for name, answer in bare["pictures"].items()]
    same = sum(
        answer.get(part) is not None and answer[part] == it.get(part) for answer, it in pairs
    )
    reasons = {it["reason"] for _, it in pairs if it.get("reason")}
    return f"{same} of {len(pairs)}" + "".join(f", {reason}" for reason in sorted(reasons))


def _shorten(error: str) -> str:
    return " ".join(error.replace("|", "/").split())[:160]


def _find_template(trial: Trial) -> str:
    for name in ("chat_template.json", "chat_template.jinja"):
        if (trial.checkpoint / name).exists():
            return name
    words = json.loads((trial.checkpoint / "tokenizer_config.json").read_text())
    if "chat_template" not in words:
        return "no file"
    kind = ", a list of named ones" if isinstance(words["chat_template"], list) else ""
    return f"tokenizer_config.json{kind}"


def _join(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


def _write_row(name: str, row: str) -> None:
    """Put a row into the table of the page, in the order of the catalogue."""
    before, _, rest = PAGE.read_text().partition(BEGIN)
    table, _, after = rest.partition(END)
    lines = [line for line in table.splitlines() if line.startswith("| ")][1:]
    rows = {line.split(" | ")[0].removeprefix("| "): line for line in lines} | {name: row}
    kept = "".join(f"{rows[each]}\n" for each in ARCHITECTURES if each in rows)
    PAGE.write_text(before + BEGIN + HEAD + kept + END + after)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
