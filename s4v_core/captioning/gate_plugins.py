"""Filters of the user's own as rules of the gate (docs/gate-plugins.md)."""

import asyncio
import hashlib
import importlib
import inspect
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any

from s4v_core.engines.requests import Picture
from s4v_core.errors import ConfigError

Plugin = Callable[[Picture | None, str], str | None]
"""Called with an image (RGB, shape (height, width, 3); None where there is none at hand) and a
caption that passed all other rules. Returns a reason to reject it, or None."""

_LONGEST_REASON = 60

_FAILED = "plugin_failed"
"""Start of the reason of a row whose plug-in raised or returned something else."""


@lru_cache(maxsize=8)
def load_plugin(name: str) -> Plugin:
    """Import a plug-in.

    Args:
        name: Its module and its name in it, `module:function`.

    Raises:
        ConfigError: There is no such module or function, or importing it fails.
    """
    module_name, _, function_name = name.partition(":")
    if not module_name or not function_name:
        raise ConfigError(f"gate.plugin: found {name!r}, allowed MODULE:FUNCTION")
    try:
        found: Any = importlib.import_module(module_name)
    # Border to foreign code: a module raises whatever it does.
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
        raise ConfigError(f"gate.plugin: {module_name} cannot be imported ({problem})") from error
    for part in function_name.split("."):
        found = getattr(found, part, None)
    if not callable(found) or inspect.iscoroutinefunction(found):
        raise ConfigError(
            f"gate.plugin: found {name!r}, which is no function; a plug-in is called with image "
            "and caption"
        )
    return found  # type: ignore[no-any-return]


def identify_plugins(names: Sequence[str]) -> dict[str, str | None]:
    """Each plug-in with a hash of the file of its module, so that a changed filter is another run;
    None where there is no file.

    Raises:
        ConfigError: One of them cannot be loaded.
    """
    found: dict[str, str | None] = {}
    for name in names:
        load_plugin(name)
        file = getattr(importlib.import_module(name.partition(":")[0]), "__file__", None)
        code = Path(file).read_bytes() if file else None
        found[name] = f"sha256:{hashlib.sha256(code).hexdigest()[:16]}" if code else None
    return found


async def ask_plugins(
    names: Sequence[str], picture: Picture | None, caption: str
) -> tuple[str | None, str | None]:
    """The first reason that a plug-in gives to reject a caption, and what is wrong if the plug-in
    itself failed; (None, None) if all accept it.

    Plug-ins run in one thread, one call after the other, so they need not be thread-safe and may
    block.
    """
    loop = asyncio.get_running_loop()
    return await loop.run_in_executor(_find_thread(), _ask, tuple(names), picture, caption)


def _ask(
    names: tuple[str, ...], picture: Picture | None, caption: str
) -> tuple[str | None, str | None]:
    for name in names:
        plugin = load_plugin(name)
        try:
            reason = plugin(picture, caption)
        # Border to foreign code: a filter that fails has let nothing through.
        except Exception as error:  # noqa: BLE001
            return f"{_FAILED}:{type(error).__name__}", f"{name}: {error}"
        if reason is None:
            continue
        if not isinstance(reason, str) or not reason.strip():
            return f"{_FAILED}:TypeError", f"{name}: returned {reason!r}"
        return reason.strip()[:_LONGEST_REASON], None
    return None, None


@lru_cache(maxsize=1)
def _find_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, "gate-plugin")
