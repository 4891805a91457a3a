"""Lets a module of this folder be run as a command: FUNCTION and its arguments as JSON."""

import json
import sys
from collections.abc import Callable
from typing import Any


def run_function(*functions: Callable[..., None]) -> None:
    """Call the one of these functions that the command line names."""
    name, arguments = sys.argv[1:]
    found: dict[str, Callable[..., Any]] = {one.__name__: one for one in functions}
    found[name](**json.loads(arguments))
