"""A digest of what the input files are, without reading them."""

import hashlib
from collections.abc import Iterable

from s4v_core.inputs.shards import Shard


def digest_listing(shards: Iterable[Shard]) -> str:
    """A hash that changes when a file of the input appears, disappears or changes."""
    whole = hashlib.sha256()
    for shard in shards:
        for line in shard.listing:
            whole.update(line.encode("utf-8", "surrogateescape") + b"\n")
    return whole.hexdigest()
