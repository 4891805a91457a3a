"""A decoder in a child process with limits on memory and time, so that a crash costs one image.

The child lives as long as its owner and is replaced when it dies or hangs. It returns the pixels in
shared memory, which is a little cheaper than a pipe.
"""

import json
import mmap
import os
import resource
import select
import struct
import subprocess
import sys
from dataclasses import asdict
from typing import IO, Any

from s4v_core.images.policy import DecodeConfig, Decoded, Framing, Refused

_MEMORY_MIB = 1024
"""Limit of the child's address space. Decoding 64 Mpx needs about 600 MiB."""

_NICENESS = 5
"""Niceness of the child: if cores are scarce, the engines, which cost more, go first."""

_START_LIMIT_S = 120
"""Seconds that the child may take to start and import Pillow on a busy machine."""

_SIZES = struct.Struct("<IQ")


class GuardedDecoder:
    """Runs `decode_image` in a child process. Not safe for several threads at once."""

    def __init__(self, config: DecodeConfig, framing: Framing) -> None:
        self.config, self.framing = config, framing
        self._child: subprocess.Popen[bytes] | None = None
        self._slot: mmap.mmap | None = None

    def decode(self, data: bytes) -> Decoded | Refused:
        """Decode one image; a child that crashes, hangs or lacks memory becomes a reason, too."""
        if len(data) > self.config.max_file_mib << 20:
            return Refused("file_too_big")
        if not data:
            return Refused("not_an_image")
        try:
            child = self._ensure_child()
            assert child.stdin, "the child has pipes"
            assert child.stdout, "the child has pipes"
            _send(child.stdin, {}, data)
            if not select.select([child.stdout], [], [], self.config.deadline_s)[0]:
                self.close()
                return Refused("decode_failed:timeout")
            about, _ = _receive(child.stdout)
        except (BrokenPipeError, EOFError):
            self.close()
            return Refused("decode_failed:crash")
        if "reason" in about:
            return Refused(about["reason"])
        assert self._slot, "a child that answers has a slot"
        return Decoded(self._slot[: about.pop("bytes")], **about)

    def close(self) -> None:
        """Kill the child; the next image starts another one."""
        child, self._child = self._child, None
        if child:
            child.kill()
            child.communicate()
        if self._slot:
            self._slot.close()
            self._slot = None

    def _ensure_child(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self.close()
            file = os.memfd_create("pixels")
            try:
                os.ftruncate(file, self.framing.max_bytes)
                self._slot = mmap.mmap(file, 0)
                self._child = self._start_child(file)
            finally:
                os.close(file)
            self._wait_until_ready(self._child)
        return self._child

    def _start_child(self, file: int) -> subprocess.Popen[bytes]:
        child = subprocess.Popen(
            [sys.executable, "-c", "from s4v_core.images.guard import run_child; run_child()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(file,),
            # The package may only be on this process's path (a job's working dir).
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )
        assert child.stdin, "the child has pipes"
        settings = {"config": self.config.model_dump(), "framing": asdict(self.framing)}
        _send(child.stdin, settings | {"slot": file}, b"")
        return child

    def _wait_until_ready(self, child: subprocess.Popen[bytes]) -> None:
        """Wait for the child: its start must not count against the first image's deadline."""
        assert child.stdout, "the child has pipes"
        if not select.select([child.stdout], [], [], _START_LIMIT_S)[0]:
            self.close()
            raise BrokenPipeError
        _receive(child.stdout)


def run_child() -> None:
    """The child's main loop: read the settings, then answer each image until the pipe closes."""
    # Imported here to keep Pillow out of processes that do not decode.
    from s4v_core.images.decoding import decode_image

    os.nice(_NICENESS)
    limit = _MEMORY_MIB << 20
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    try:
        settings, _ = _receive(source)
        config = DecodeConfig(**settings["config"])
        framing = Framing(**settings["framing"])
        slot = mmap.mmap(settings["slot"], 0)
        _send(sink, {}, b"")  # ready
        while True:
            answer = decode_image(_receive(source)[1], config, framing)
            if isinstance(answer, Refused):
                _send(sink, {"reason": answer.reason}, b"")
            else:
                about = asdict(answer)
                pixels = about.pop("pixels")
                slot[: len(pixels)] = pixels
                _send(sink, about | {"bytes": len(pixels)}, b"")
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        return


def _send(sink: IO[bytes], about: dict[str, Any], data: bytes) -> None:
    header = json.dumps(about).encode()
    sink.write(_SIZES.pack(len(header), len(data)) + header)
    sink.write(data)
    sink.flush()


def _receive(source: IO[bytes]) -> tuple[dict[str, Any], bytes]:
    header_size, data_size = _SIZES.unpack(_read_exactly(source, _SIZES.size))
    return json.loads(_read_exactly(source, header_size)), _read_exactly(source, data_size)


def _read_exactly(source: IO[bytes], size: int) -> bytes:
    data = source.read(size)
    if len(data) < size:
        raise EOFError
    return data
