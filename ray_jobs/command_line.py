"""What all entry scripts share: `[RECIPE] [--flag value ...]`, one-sentence errors, exit codes."""

import logging
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import tyro

from s4v_core.captioning.places import fill_places
from s4v_core.config import Config
from s4v_core.errors import ConfigError, InputError, S4VError

J = TypeVar("J", bound=Config)

BAD_INPUT = 2
INTERRUPTED = 130


def parse(recipes: Mapping[str, J], argv: Sequence[str], manual: str) -> J:
    """The job of a recipe (`paper` unless one is named), flags applied, places filled in.

    Raises:
        ConfigError: An unknown recipe, or values that are not allowed.
    """
    named = bool(argv) and not argv[0].startswith("-")
    name, flags = (argv[0], list(argv[1:])) if named else ("paper", list(argv))
    if name not in recipes:
        raise ConfigError(f"recipe: found {name!r}, allowed {', '.join(sorted(recipes))}")
    default = recipes[name]
    program = f"{sys.argv[0]} [{'|'.join(sorted(recipes))}]"
    job = tyro.cli(
        type(default),
        args=flags,
        default=default,
        prog=program,
        description=manual,
        config=(tyro.conf.UseAppendAction, tyro.conf.FlagConversionOff),
    )
    return fill_places(_without_defaults(job, default))


def _without_defaults(job: J, default: J) -> J:
    """A repeatable flag appends to the recipe's values; what the user gives replaces them."""
    given = {}
    for name, value in job:
        before = getattr(default, name)
        if isinstance(value, tuple) and len(value) > len(before):
            given[name] = value[len(before) :]
    return job.replace(**given)


def run_main(main: Callable[[list[str]], int]) -> None:
    """Call `main` with the arguments; exit with its code, or one sentence and 2 or 1."""
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for noisy in ("ray", "httpx", "botocore", "aiobotocore", "s3fs", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    try:
        code = main(sys.argv[1:])
    except (ConfigError, InputError) as error:
        complain(error)
        code = BAD_INPUT
    except S4VError as error:
        complain(error)
        code = 1
    except KeyboardInterrupt:
        code = INTERRUPTED
    sys.stdout.flush()
    sys.exit(code)


def complain(error: Any) -> None:
    print(f"error: {error}", file=sys.stderr)


def printable(text: str) -> str:
    """Text from a model or a file for a terminal: control characters are shown, not obeyed."""
    return "".join(
        c if c.isprintable() else "\N{SYMBOL FOR NULL}" if c == "\0" else " " for c in text
    )
