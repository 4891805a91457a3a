"""Text from models and files for a terminal or a log: control characters are shown, not obeyed."""

_SPACES = "\n\r\t"
_PICTURES = 0x2400
"""Start of Unicode's pictures of the control characters U+0000 to U+001F."""


def printable(text: str) -> str:
    """`text` on one line, with nothing in it that a terminal obeys.

    Line breaks and tabs become spaces, other control characters a picture of themselves, and
    everything else that is not printable (C1 controls, marks that change the direction of writing,
    bytes that are not UTF-8) a replacement character.
    """
    return text if text.isprintable() else "".join(map(_show, text))


def _show(char: str) -> str:
    if char.isprintable():
        return char
    if char in _SPACES or (char.isspace() and ord(char) > 0x9F):
        return " "
    if ord(char) < 0x20:
        return chr(_PICTURES + ord(char))
    return "\N{SYMBOL FOR DELETE}" if char == "\x7f" else "\N{REPLACEMENT CHARACTER}"
