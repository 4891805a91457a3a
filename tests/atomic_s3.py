"""Makes conditional writes of moto's S3 atomic, as they are in real stores."""

import threading
from functools import cache, wraps
from typing import Any

from moto.s3.responses import S3Response


@cache
def make_creation_atomic() -> None:
    """Let this process handle one PUT at a time from now on.

    moto checks whether the object exists and writes it in two steps, so that of sixteen writers
    at once sometimes two win.
    """
    lock, put_object = threading.Lock(), S3Response.put_object

    @wraps(put_object)
    def one_at_a_time(response: S3Response) -> Any:
        with lock:
            return put_object(response)

    S3Response.put_object = one_at_a_time
