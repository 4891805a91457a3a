"""Gate plug-ins as a user writes them."""

import numpy as np


def refuse_dark(pixels, caption):
    """Rejects dark pictures, whatever their caption."""
    return "dark" if pixels is not None and np.mean(pixels) < 50 else None


def refuse_mail_addresses(pixels, caption):
    return "pii_mail" if "@" in caption else None


def fail(pixels, caption):
    raise RuntimeError("no weights")


def answer_nonsense(pixels, caption):
    return True


async def wait(pixels, caption):
    return None
