"""Files on any fsspec URI: listings, ranged reads, and the create-only write that commits rely on.

The only package that uses fsspec. It knows nothing about the contents of the files.
"""

from s4v_core.storage.access import (
    UNIT_PATIENCE_S,
    UnreachableError,
    get_patience,
    is_utf8,
    patience,
)
from s4v_core.storage.listing import (
    FileTree,
    StoredFile,
    exists,
    expand,
    has_marks,
    is_folder,
    list_files,
    list_folder,
    list_tree,
    refusal,
    stat,
)
from s4v_core.storage.mirror import mirror
from s4v_core.storage.reading import (
    local_copy,
    open_to_read,
    read,
    read_range,
    read_tail,
)
from s4v_core.storage.reasons import (
    REASONS,
    NoCredentialsError,
    PlaceError,
    SourceChangedError,
    escape_name,
)
from s4v_core.storage.receipts import (
    Receipts,
    Written,
    describe_content,
    refuse_overwriting,
    resolve,
)
from s4v_core.storage.streams import make_folder, open_to_write, rename
from s4v_core.storage.uris import (
    absolute,
    arrow_filesystem,
    base_name,
    is_local,
    is_web,
    join,
    parent,
)
from s4v_core.storage.writing import (
    PARTIAL,
    create,
    create_file,
    honours_create,
    remove,
    remove_stale_partials,
    replace,
    replace_json,
    replace_version,
    upload,
)

__all__ = [
    "PARTIAL",
    "REASONS",
    "UNIT_PATIENCE_S",
    "FileTree",
    "NoCredentialsError",
    "PlaceError",
    "Receipts",
    "SourceChangedError",
    "StoredFile",
    "UnreachableError",
    "Written",
    "absolute",
    "arrow_filesystem",
    "base_name",
    "create",
    "create_file",
    "describe_content",
    "escape_name",
    "exists",
    "expand",
    "get_patience",
    "has_marks",
    "honours_create",
    "is_folder",
    "is_local",
    "is_utf8",
    "is_web",
    "join",
    "list_files",
    "list_folder",
    "list_tree",
    "local_copy",
    "make_folder",
    "mirror",
    "open_to_read",
    "open_to_write",
    "parent",
    "patience",
    "read",
    "read_range",
    "read_tail",
    "refusal",
    "refuse_overwriting",
    "remove",
    "remove_stale_partials",
    "rename",
    "replace",
    "replace_json",
    "replace_version",
    "resolve",
    "stat",
    "upload",
]
