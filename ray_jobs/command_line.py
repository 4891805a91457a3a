"""Shared by all entry scripts: `[RECIPE] [--flag value ...]`, one-sentence errors, exit codes."""

import atexit
import contextlib
import errno
import io
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import tyro

from s4v_core.config import Config
from s4v_core.environment import fill_in_root
from s4v_core.errors import ConfigError, InputError, S4VError
from s4v_core.interrupts import end_at_sigterm
from s4v_core.terminal import printable

J = TypeVar("J", bound=Config)

OTHER_NAMES = {"--schema": "--json-schema"}
"""Names that a flag is known by, too: a field of a Config cannot be called schema."""

BAD_INPUT = 2
INTERRUPTED = 130
_READER_GONE = 141


def parse(
    recipes: Mapping[str, J],
    argv: Sequence[str],
    manual: str,
    has_places: Callable[[J], bool] = lambda job: True,
) -> J:
    """The job of a recipe (`paper` unless one is named), flags applied, places filled in.

    Args:
        has_places: Whether a job uses its places; where not, they stay as they are written.

    Raises:
        ConfigError: An unknown recipe, or values that are not allowed.
    """
    name, flags = split_recipe(recipes, argv)
    default = recipes[name]
    program = f"{sys.argv[0]} [{'|'.join(sorted(recipes))}]"
    job = read_flags(type(default), flags, manual, default, program)
    job = _drop_defaults(job, default)
    return fill_in_root(job) if has_places(job) else job


def split_recipe(recipes: Mapping[str, J], argv: Sequence[str]) -> tuple[str, list[str]]:
    """The name of the recipe that arguments begin with, `paper` unless one is named, and the flags.

    Raises:
        ConfigError: An unknown recipe.
    """
    named = bool(argv) and not argv[0].startswith("-")
    name, flags = (argv[0], list(argv[1:])) if named else ("paper", list(argv))
    if name not in recipes:
        raise ConfigError(f"recipe: found {name!r}, allowed {', '.join(sorted(recipes))}")
    return name, flags


def read_flags(
    kind: type[J], argv: Sequence[str], manual: str, default: J | None = None, program: str = ""
) -> J:
    """A `kind` from flags; `--help` prints itself and exits.

    Raises:
        ConfigError: Flags or values that are not allowed, in one sentence where tyro draws a box.
    """
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            return tyro.cli(
                kind,
                args=[_use_own_name(one) for one in argv],
                default=default if default is not None else tyro.MISSING_NONPROP,
                prog=program or sys.argv[0],
                description=manual,
                config=(tyro.conf.UseAppendAction,),
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ConfigError(_extract_sentence(box.getvalue())) from None


def _use_own_name(argument: str) -> str:
    name, is_set, value = argument.partition("=")
    return f"{OTHER_NAMES.get(name, name)}{is_set}{value}"


def _extract_sentence(box: str) -> str:
    """The complaint in tyro's box, without the box, and the flag that was probably meant."""
    lines = [line.strip("\u2502 ") for line in box.splitlines() if line.startswith("\u2502")]
    complaint: list[str] = []
    for line in lines:
        if line.startswith("\u2500"):
            break
        complaint.append(line)
    meant = next(
        (line for at, line in enumerate(lines) if "Perhaps" in "".join(lines[at - 1 : at])), ""
    )
    hint = f"; did you mean {meant.split()[0]}?" if meant else ""
    return " ".join(complaint).rstrip(".") + hint


def _drop_defaults(job: J, default: J) -> J:
    """A repeatable flag appends to the recipe's values; what the user gives replaces them."""
    given: dict[str, Any] = {}
    for name, value in job:
        before = getattr(default, name)
        if isinstance(value, tuple) and len(value) > len(before):
            given[name] = value[len(before) :]
        elif isinstance(value, Config) and isinstance(before, Config):
            given[name] = _drop_defaults(value, before)
    return job.replace(**given)


def run_main(main: Callable[[list[str]], int]) -> None:
    """Call `main` with the arguments; exit with its code, or one sentence and 2 or 1."""
    end_at_sigterm()
    _start_logging()
    try:
        code = main(sys.argv[1:])
        sys.stdout.flush()
    except (ConfigError, InputError) as error:
        complain(error)
        code = BAD_INPUT
    except S4VError as error:
        complain(error)
        code = 1
    except BrokenPipeError:  # `| head` has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = _READER_GONE
    except OSError as error:  # of the output it is a StorageError
        if error.errno != errno.ENOSPC:
            raise
        complain(
            "a disk of this machine is full, where Ray keeps its logs or other programs their "
            "temporary files; make room and run the same command again"
        )
        code = 1
    except KeyboardInterrupt:
        print("\nstopped; run the same command again to resume", file=sys.stderr)
        code = INTERRUPTED
    _leave(code)


def _leave(code: int) -> NoReturn:
    """End the process as `sys.exit` does, but without the destructors of libraries: those of
    pyarrow and gloo meet threads of their own that still run, and abort a finished process."""
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


def complain(error: Any) -> None:
    """Print an error as one sentence on stderr."""
    print(f"error: {printable(str(error))}", file=sys.stderr)


def warn(sentence: str) -> None:
    """Print a sentence on stderr that the user must read."""
    print(f"warning: {printable(sentence)}", file=sys.stderr)


def show(text: str) -> None:
    """Print lines whose parts may come from files and models; no terminal obeys any of them.

    Take line breaks out of names before you build lines of them.
    """
    print("\n".join(map(printable, text.split("\n"))))


class _PrintableFormatter(logging.Formatter):
    """Formats a log line so that names in it cannot control the terminal."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = printable(record.message)
        return super().formatMessage(record)


def _start_logging() -> None:
    logging.raiseExceptions = False  # one traceback per line, where a disk below Ray's log is full
    handler = logging.StreamHandler()
    handler.setFormatter(_PrintableFormatter("%(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for noisy in ("ray", "httpx", "botocore", "aiobotocore", "s3fs", "huggingface_hub", "openai"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
