"""How long engines hold their accelerators, told by themselves as long as they live."""

import threading
import time

from s4v_core.flow.brake import Brake

TELL_EVERY_S = 2.0
"""What an engine that dies has not told yet is lost; at most this."""


def tell_tenure(brake: Brake, every_s: float = TELL_EVERY_S) -> None:
    """Tell `brake` of the time that passes from now to the end of this process."""
    threading.Thread(target=_tell, args=(brake, every_s), daemon=True, name="tenure").start()


def _tell(brake: Brake, every_s: float) -> None:
    told = time.monotonic()
    while True:
        time.sleep(every_s)
        now = time.monotonic()
        brake.tell_held(now - told)
        told = now
