"""The logs of the endpoints as JSON lines: which key asked what and when, and the texts if the
operator wants them. Neither ever holds the secret of a key.
"""

import json
import logging
import os
import tempfile
from datetime import UTC, datetime
from logging.handlers import RotatingFileHandler
from pathlib import Path

ACCESS, TEXTS = "s4v.access", "s4v.texts"
"""Names of the loggers of requests and of texts."""

_FILE_BYTES, _OLD_FILES = 64 << 20, 4
"""Size at which a log file is put aside, and how many of these are kept."""


def find_log_place(folder: str) -> tuple[Path, str]:
    """Find the folder of the logs and the name of this process in it.

    Args:
        folder: The configured folder; empty: where Ray keeps the logs of Serve, so that they are
            collected and shown with these.
    """
    from ray.serve import get_replica_context
    from ray.serve._private.logging_utils import get_serve_logs_dir
    from ray.serve.exceptions import RayServeException

    try:
        name = get_replica_context().replica_id.unique_id
    except RayServeException:  # in a test without Serve, where Ray has no folder of logs
        name = str(os.getpid())
        folder = folder or str(Path(tempfile.gettempdir()) / "s4v-serve-logs")
    return Path(folder or get_serve_logs_dir()), name


def open_logs(folder: Path, name: str) -> None:
    """Let both loggers of this process write to files of their own in `folder`.

    Args:
        name: Distinguishes the files of this process from those of others.
    """
    folder.mkdir(parents=True, exist_ok=True)
    for logger_name in (ACCESS, TEXTS):
        kind = logger_name.rpartition(".")[2]
        path = folder / f"s4v-{kind}-{name}.jsonl"
        # Prompts are nobody else's business, whatever the umask of the node.
        path.touch(mode=0o600)
        handler = RotatingFileHandler(path, "a", _FILE_BYTES, _OLD_FILES, encoding="utf-8")
        handler.setFormatter(logging.Formatter("%(message)s"))
        logger = logging.getLogger(logger_name)
        for old in list(logger.handlers):
            logger.removeHandler(old)
            old.close()
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False


def write_texts(request_id: str, key: str, model: str, prompt: str, text: str | None) -> None:
    """Write the texts of one answer to their log."""
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    line = {"at": now, "request_id": request_id, "key": key, "model": model}
    line |= {"prompt": prompt, "text": text or ""}
    logging.getLogger(TEXTS).info("%s", json.dumps(line))
