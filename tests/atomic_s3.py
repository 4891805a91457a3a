"""moto's S3, with conditional writes in one step, as stores have them."""

import threading
from functools import cache, wraps
from typing import Any

from moto.s3.responses import S3Response


@cache
def make_creation_atomic() -> None:
    """From now on one PUT at a time in this process.

    moto looks whether the object is there, and then writes: of sixteen writers at once two win now
    and then.
    """
    lock, put_object = threading.Lock(), S3Response.put_object

    @wraps(put_object)
    def one_at_a_time(response: S3Response) -> Any:
        with lock:
            return put_object(response)

    S3Response.put_object = one_at_a_time
