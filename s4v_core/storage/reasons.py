"""Reasons why one place cannot be read, and which errors of the stores' clients mean which.

An error that belongs to one place (a missing file, a closed one, a name that no store takes) has a
reason here and becomes the row of that place. An error without one means that the store as a whole
has failed.
"""

import errno
from types import MappingProxyType
from typing import Any

from s4v_core.errors import StorageError

REASONS = MappingProxyType(
    {
        "not_found": "Nothing is at the place.",
        "forbidden": "The store or server does not let us read it.",
        "unauthorized": "The server asks for a login.",
        "gone": "The server says that it has been removed for good.",
        "not_a_file": "It is a folder, a pipe, a socket or a device.",
        "bad_name": "No file or URL can have this name: too long, a NUL, not UTF-8, no host.",
        "unsupported_scheme": "The scheme is unknown, or its package is not installed.",
        "archived": "The object has to be restored from an archive (Glacier) first.",
        "unreadable": "It is there, but damaged, encrypted, or refused for another reason.",
        "damaged_page": "The page of its Parquet that holds it is damaged.",
        "bad_record": "The record that should name it is no object.",
        "unsafe_path": "A table names a path outside of the folder of its images.",
        "truncated": "Its file or archive ends before it does.",
        "source_changed": "It is no longer the file that was planned.",
        "file_too_big": "It is larger than the limit, and was not read.",
        "opted_out": "The server's X-Robots-Tag asks not to use it for machine learning.",
        "bad_request": "The server refuses the request with another status from 400 to 499.",
        "rate_limited": "The server says that it was asked too often, and kept saying so.",
        "server_error": "The server failed (status 500 and above, or no HTTP), and kept failing.",
        "timeout": "The server took too long to connect or to answer.",
        "dns_failure": "The host's name has no address.",
        "connection_refused": "Nothing listens at the host, or the host cannot be reached.",
        "connection_lost": "The connection broke off before the end of the answer.",
        "bad_certificate": "The server's certificate, or its TLS, is not valid.",
        "redirect_loop": "One redirect too many.",
    }
)
"""Every reason for which a row has no bytes, with its meaning. Decoding has reasons of its own."""


class PlaceError(StorageError):
    """One place cannot be read, for one of REASONS; the store itself is well."""

    def __init__(self, uri: str, problem: str, reason: str = "unreadable") -> None:
        super().__init__(uri, problem)
        self.args = (uri, problem, reason)
        self.reason = reason


class SourceChangedError(PlaceError):
    """An object is no longer the one that was listed."""

    def __init__(self, uri: str, problem: str) -> None:
        super().__init__(uri, problem, "source_changed")
        self.args = (uri, problem)


class NoCredentialsError(StorageError):
    """A store takes no request without credentials, and there are none."""


_NUMBERS = {
    errno.EISDIR: "not_a_file",
    errno.ENXIO: "not_a_file",
    errno.ENODEV: "not_a_file",
    errno.EACCES: "forbidden",
    errno.EPERM: "forbidden",
    errno.ENAMETOOLONG: "bad_name",
    errno.EILSEQ: "bad_name",
    errno.ELOOP: "unreadable",
}
"""System errors that a single file can cause. The others (EIO, ESTALE, EMFILE, ...) are a disk's
or a machine's."""

_S3_CODES = {
    "AccessDenied": "forbidden",
    "AllAccessDisabled": "forbidden",
    "403": "forbidden",
    "InvalidObjectState": "archived",
    "KeyTooLongError": "bad_name",
    "InvalidBucketName": "bad_name",
    "InvalidURI": "bad_name",
    "PermanentRedirect": "unreadable",
    "301": "unreadable",
}
"""Error codes of S3 that belong to one object or bucket."""

_CREDENTIAL_MARKS = ("Token", "Signature", "AccessKey", "Credential", "Auth", "Account", "SignedUp")
_LOAD_MARKS = ("Time", "Thrott", "TooMany", "SlowDown", "Busy", "InProgress", "Aborted")
_OTHERS_STATUSES = (404, 408, 409, 412, 416, 425, 429)
"""Parts of codes that are no object's: credentials that are wrong or expired end a pass instead of
turning all its images into rows, and load passes. The statuses are told apart elsewhere."""

_BAD_NAMES = ("ParamValidationError", "InvalidURL", "InvalidUrlClientError")
_HTTP_REASONS = {401: "unauthorized", 402: "forbidden", 403: "forbidden", 407: "forbidden"} | {
    404: "not_found",
    410: "gone",
    413: "file_too_big",
    416: "source_changed",
    451: "forbidden",
}
_TRANSIENT_STATUSES = frozenset((408, 425, 429))


def find_reason(error: Exception) -> str | None:
    """The reason that an error of a file system gives for one place; None if the error is the
    store's."""
    cause: Any = error.__cause__ or error
    response = getattr(cause, "response", None)
    if isinstance(response, dict) and "Error" in response:
        return _find_s3_reason(response)
    for one in (error, cause):
        if isinstance(one, UnicodeError) or type(one).__name__ in _BAD_NAMES:
            return "bad_name"
        if isinstance(status := getattr(one, "status", None), int):
            return find_status_reason(status)
    if isinstance(error, OSError):
        return _NUMBERS.get(error.errno or 0) or (
            "forbidden" if isinstance(error, PermissionError) else None
        )
    # Python refuses a NUL in a path before any system call.
    return "bad_name" if isinstance(error, ValueError) and "null byte" in str(error) else None


def _find_s3_reason(response: dict[str, Any]) -> str | None:
    code = str(response["Error"].get("Code"))
    if code in _S3_CODES:
        return _S3_CODES[code]
    status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
    is_refusal = 400 <= status < 500 and status not in _OTHERS_STATUSES
    # An answer without a body has its status for a code, which says too little.
    if not is_refusal or code.isdigit():
        return None
    is_ours = any(mark in code for mark in (*_CREDENTIAL_MARKS, *_LOAD_MARKS))
    return None if is_ours else "unreadable"


def find_status_reason(status: int) -> str | None:
    """The reason that an HTTP status gives for one URL; None if a later answer may be another."""
    if status >= 500 or status in _TRANSIENT_STATUSES:
        return None
    return _HTTP_REASONS.get(status, "bad_request")


def escape_name(uri: str) -> str:
    """A name as text that can be printed and stored, with marks for what is not UTF-8."""
    return uri.encode("utf-8", "backslashreplace").decode().replace("\0", "\\0")
