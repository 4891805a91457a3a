"""Compares the images of a table of samples with what their places hold now. Reads no image."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from s4v_core import storage
from s4v_core.errors import StorageError

_MOST_FILES = 1000
"""Files that are compared; of more a fixed choice is, since a listing of millions takes minutes."""

_THREADS = 16


def count_changed_files(samples: str) -> tuple[int, int, str | None]:
    """Compare the files that hold the images, or a fixed choice of 1,000 of them.

    Args:
        samples: Local path of the table of samples.

    Returns:
        Number of files that are gone or were replaced, number of files that were compared, and the
        first of the changed ones.
    """
    with pa.memory_map(samples) as memory:
        images = pa.ipc.open_file(memory).read_all()["images"]
        places = pc.list_flatten(images)
        uris, etags = (pc.struct_field(places, name).to_pylist() for name in ("uri", "etag"))
    known = sorted(dict(zip(uris, etags, strict=True)).items())
    known = [(uri, etag) for uri, etag in known if etag and not storage.is_web(uri)]
    if len(known) > _MOST_FILES:
        chosen = np.random.default_rng(0).choice(len(known), _MOST_FILES, replace=False)
        known = [known[at] for at in sorted(chosen)]
    with ThreadPoolExecutor(_THREADS) as pool:
        are_same = list(pool.map(_is_same, known))
    changed = [uri for (uri, _), is_same in zip(known, are_same, strict=True) if not is_same]
    return len(changed), len(known), changed[0] if changed else None


def _is_same(known: tuple[str, str]) -> bool:
    uri, etag = known
    try:
        file = storage.stat(uri)
    except storage.UnreachableError:
        raise
    except StorageError:  # a link that leads to itself, for example
        return False
    return file is not None and file.etag == etag
