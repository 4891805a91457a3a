"""A checkpoint's own chat template, rendered in a child process with limits of time, memory and
size.

A template is a program that comes with the checkpoint. transformers runs it in a sandbox, which
keeps it from files and the network, but lets it loop for hours or build a text of gigabytes.
"""

import json
import os
import resource
import select
import struct
import subprocess
import sys
import threading
import weakref
from collections.abc import Callable, Mapping
from typing import IO, Any

from s4v_core.errors import ConfigError

DEADLINE_S = 10.0
"""Seconds that rendering one prompt may take; real templates take milliseconds."""

_MAX_CHARACTERS = 1 << 20
"""Longest rendered prompt; the longest contexts of today's models hold less text."""

_MEMORY_MIB = 1024
"""Memory that rendering may take on top of what the started child has."""

_START_LIMIT_S = 180
"""Seconds for the child to start on a busy machine."""

_SIZE = struct.Struct("<I")


class GuardedTemplate:
    """Renders conversations with the chat template of one checkpoint. Usable from several
    threads."""

    def __init__(self, model: str, special_tokens: Mapping[str, Any]) -> None:
        """Args:
        model: The checkpoint, for messages.
        special_tokens: Its tokenizer's special tokens by name, which templates may write.
        """
        self._model, self._special_tokens = model, dict(special_tokens)
        self._child: subprocess.Popen[bytes] | None = None
        self._end_child: weakref.finalize[..., Any] | None = None
        self._lock = threading.Lock()

    def render(
        self,
        template: str,
        messages: list[dict[str, Any]],
        switches: Mapping[str, Any] | None = None,
        is_asked: bool = True,
    ) -> str:
        """The text that a template makes of messages.

        Args:
            template: Text of the template.
            switches: Further variables for it.
            is_asked: The text shall end where the model's answer begins.

        Raises:
            ConfigError: The template fails, or exceeds a limit.
        """
        with self._lock:
            child = self._ensure_child()
            try:
                asked = {"template": template, "messages": messages, "is_asked": is_asked}
                _send(child.stdin, asked | {"names": self._special_tokens | dict(switches or {})})
                answer = _receive_in_time(child.stdout, DEADLINE_S)
            except (TimeoutError, EOFError, BrokenPipeError) as error:
                self._kill()
                why = f"took more than {DEADLINE_S:g} s"
                why = why if isinstance(error, TimeoutError) else "took too much memory"
                raise self._blame(why) from None
        if "text" in answer:
            return str(answer["text"])
        raise self._blame(answer["problem"])

    def close(self) -> None:
        with self._lock:
            self._kill()

    def _blame(self, problem: str) -> ConfigError:
        return ConfigError(f"template: the chat template of {self._model} {problem}")

    def _ensure_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._kill()
            code = "from s4v_core.engines.template_guard import run_child; run_child()"
            self._child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                # The package may only be on this process's path (a job's working dir).
                env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            # Python keeps a running child and its pipes after the last use of their Popen object.
            self._end_child = weakref.finalize(self, _end, self._child)
            try:
                _receive_in_time(self._child.stdout, _START_LIMIT_S)
            except (TimeoutError, EOFError):
                self._kill()
                raise self._blame("cannot be loaded") from None
        return self._child

    def _kill(self) -> None:
        self._child = None
        if self._end_child:
            self._end_child()


def _end(child: subprocess.Popen[bytes]) -> None:
    child.kill()
    child.communicate()


def run_child() -> None:
    """The child's main loop: render each conversation until the pipe closes."""
    from transformers.utils.chat_template_utils import render_jinja_template

    source, sink = sys.stdin.buffer, sys.stdout.buffer
    _limit_memory()
    try:
        _send(sink, {"text": ""})  # ready
        while True:
            _send(sink, _render(render_jinja_template, **_receive(source)))
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


def _render(
    render: Callable[..., tuple[list[str], Any]],
    template: str,
    messages: list[dict[str, Any]],
    names: dict[str, Any],
    is_asked: bool,
) -> dict[str, str]:
    """Render as `apply_chat_template` of a tokenizer does.

    Args:
        names: Variables of the template besides messages.
    """
    try:
        texts, _ = render(
            conversations=[messages],
            chat_template=template,
            add_generation_prompt=is_asked,
            **names,
        )
        text = texts[0]
    # Border to foreign code: a template may raise anything.
    except Exception as error:  # noqa: BLE001
        return {"problem": f"fails: {type(error).__name__}: {str(error)[:300]}"}
    if len(text) > _MAX_CHARACTERS:
        return {"problem": f"makes a prompt of {len(text)} characters, allowed {_MAX_CHARACTERS}"}
    return {"text": text}


def _limit_memory() -> None:
    """Bound what the process may allocate from now on."""
    with open("/proc/self/statm") as file:
        data_pages = int(file.read().split()[5])
    limit = data_pages * resource.getpagesize() + (_MEMORY_MIB << 20)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def _send(sink: IO[bytes] | None, value: Any) -> None:
    assert sink, "the child has pipes"
    data = json.dumps(value).encode()
    sink.write(_SIZE.pack(len(data)) + data)
    sink.flush()


def _receive_in_time(source: IO[bytes] | None, limit_s: float) -> dict[str, Any]:
    assert source, "the child has pipes"
    if not select.select([source], [], [], limit_s)[0]:
        raise TimeoutError
    found: dict[str, Any] = _receive(source)
    return found


def _receive(source: IO[bytes]) -> Any:
    header = source.read(_SIZE.size)
    if len(header) < _SIZE.size:
        raise EOFError
    (size,) = _SIZE.unpack(header)
    data = source.read(size)
    if len(data) < size:
        raise EOFError
    return json.loads(data)
