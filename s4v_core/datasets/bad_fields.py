"""A field of a record that is not what a conversation needs, as a value that names it."""

from typing import Any

_SHOWN_CHARS = 60


class BadFieldError(ValueError):
    """A record cannot be used because of one of its fields; it becomes a row, never an end.

    Attributes:
        reason: Reason of the row.
        field: Path of the field in the record, such as `messages[1].content`; empty for the record.
        found: What was found there, and what was needed.
    """

    def __init__(self, field: str, found: Any, needed: str, reason: str = "bad_record") -> None:
        super().__init__(field, found, needed, reason)
        self.reason, self.field = reason, field
        self.found = f"found {shorten(found)}, needed {needed}"


def shorten(found: Any) -> str:
    """A value of JSON on one short line."""
    text = "nothing" if found is None else repr(found)
    return text if len(text) <= _SHOWN_CHARS else text[: _SHOWN_CHARS - 3] + "..."


def check_text(field: str, text: Any, needed: str = "a text") -> str:
    """The text of a field.

    Raises:
        BadFieldError: It is no text, or holds characters that no file can hold (bytes that are not
            UTF-8, lone surrogates).
    """
    if not isinstance(text, str):
        raise BadFieldError(field, text, needed)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        part = text[max(error.start - 10, 0) : error.end + 10]
        raise BadFieldError(field, part, "text in UTF-8", "bad_text") from None
    return text
