"""Numbers in texts of models."""

import math


def read_number(text: str) -> float | None:
    """The number that a text is, or None; there is no number that is infinite or not a number."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
