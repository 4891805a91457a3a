"""How an engine chooses the next token."""

import hashlib

from pydantic import Field

from s4v_core.config import Config


class SamplingConfig(Config):
    """How the next token is chosen. Recorded in every row."""

    max_tokens: int = Field(512, ge=1)
    """Longest answer, in tokens."""
    temperature: float = Field(0.0, ge=0.0)
    """0 always takes the most likely token; higher values draw more freely."""
    top_p: float = Field(1.0, gt=0.0, le=1.0)
    """Draw only from the most likely tokens that together have this probability."""
    repetition_penalty: float = Field(1.0, gt=0.0)
    """Above 1, tokens that already occurred become less likely."""
    stop_at_loops: bool = True
    """End an answer that repeats itself over and over before it reaches max_tokens (vLLM only)."""
    seed: int = 0
    """Base seed. Combined with the image's sha256, so an image draws the same caption in any
    batch."""

    def seed_of(self, content: str) -> int | None:
        """The seed of one request; None if nothing is drawn.

        Args:
            content: Identifies what the request is about: the image's sha256, or a row's key.
        """
        if self.temperature == 0:
            return None
        whole = hashlib.sha256(f"{self.seed}/{content}".encode()).digest()
        return int.from_bytes(whole[:4], "big")
