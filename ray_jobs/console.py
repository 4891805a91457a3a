"""The command `s4v`: `s4v caption ...` does what `python ray_jobs/caption.py ...` does."""

import importlib
import sys
from importlib import metadata

from ray_jobs.command_line import complain, run_main

COMMANDS = {
    "caption": "Caption every image of the input, each exactly once.",
    "collect": "Collect a teacher's captions, with prompts that fit each image's source.",
    "status": "Show how far a run is, from its output alone.",
    "score": "Score how well the captions of a run fit their images.",
    "export": "Write the captions of a run in a format that others read.",
    "eval": "Ask a model the questions of benchmarks, and score its answers or stored ones.",
    "dataset": "Audit, mix, sample, convert, describe and draw data sets.",
    "synthesize": "Make image prompts, dialogues and images from nothing.",
    "verify": "Let people say which questions of a synthesized benchmark are right.",
    "analyze": "Analyze captions: lengths, words, parts of speech, sets side by side.",
    "prefer": "Let people or a model say which of two captions is better.",
    "convert": "Convert a checkpoint, join its parts, or merge a LoRA adapter.",
    "train_captioner": "Train the captioner.",
    "train_painter": "Train the demo painter, which draws scenes from prompts.",
    "pretrain": "Pretrain on captions (Sec. 4.2).",
    "finetune": "Fine-tune on conversations (Sec. 4.3).",
    "reproduce": "Replay the paper's tables and figures, with intervals.",
}
"""Modules of this package by their command, and what each does."""


def main() -> None:
    """Run the command that the arguments name."""
    command = sys.argv[1] if len(sys.argv) > 1 else "--help"
    name = command.replace("-", "_")
    if command in ("-h", "--help"):
        print(_list_commands())
    elif command == "--version":
        print(f"s4v {metadata.version('s4v')}")
    elif name in COMMANDS:
        module = importlib.import_module(f"ray_jobs.{name}")
        sys.argv = [f"s4v {command}", *sys.argv[2:]]
        run_main(module.main)
    else:
        complain(f"command: found {command!r}, allowed {', '.join(COMMANDS)}")
        sys.exit(2)


def _list_commands() -> str:
    width = max(map(len, COMMANDS)) + 2
    lines = [f"  {name:<{width}}{about}" for name, about in COMMANDS.items()]
    usage = "usage: s4v COMMAND [RECIPE] [--flag value ...]"
    return "\n".join([usage, "", *lines, "", "s4v COMMAND --help lists a command's flags."])
