"""How long engine workers hold their accelerators, reported by themselves while they live."""

import threading
import time

from s4v_core.flow.brake import Brake

_REPORT_EVERY_S = 2.0
"""Seconds between two reports; a worker that dies loses at most this much."""


def report_lease(brake: Brake, every_s: float = _REPORT_EVERY_S) -> None:
    """Report to `brake` the time that passes from now to the end of this process."""
    threading.Thread(target=_report, args=(brake, every_s), daemon=True, name="lease").start()


def _report(brake: Brake, every_s: float) -> None:
    reported = time.monotonic()
    while True:
        time.sleep(every_s)
        now = time.monotonic()
        brake.add_held(now - reported)
        reported = now
