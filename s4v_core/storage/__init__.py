"""Files on any fsspec URI: listing, ranged reads, and the create-only write that commits rest on.

The only room that knows fsspec. Knows nothing of what the files hold.
"""

from s4v_core.storage.access import UNIT_PATIENCE_S, UnreachableError, patience
from s4v_core.storage.mirror import mirror
from s4v_core.storage.places import absolute, arrow_filesystem, base_name, is_local, join, parent
from s4v_core.storage.reading import (
    SourceChangedError,
    StoredFile,
    exists,
    expand,
    is_folder,
    list_files,
    list_folder,
    local_copy,
    open_to_read,
    read,
    read_range,
    read_tail,
    refusal,
    stat,
)
from s4v_core.storage.writing import (
    PARTIAL,
    create,
    honours_create,
    remove,
    remove_stale_partials,
    replace,
    replace_json,
    upload,
)

__all__ = [
    "PARTIAL",
    "UNIT_PATIENCE_S",
    "SourceChangedError",
    "StoredFile",
    "UnreachableError",
    "absolute",
    "arrow_filesystem",
    "base_name",
    "create",
    "exists",
    "expand",
    "honours_create",
    "is_folder",
    "is_local",
    "join",
    "list_files",
    "list_folder",
    "local_copy",
    "mirror",
    "open_to_read",
    "parent",
    "patience",
    "read",
    "read_range",
    "read_tail",
    "refusal",
    "remove",
    "remove_stale_partials",
    "replace",
    "replace_json",
    "stat",
    "upload",
]
