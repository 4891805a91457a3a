"""How an engine chooses the next token."""

import hashlib
from typing import Any

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


class ClientSampling(SamplingConfig):
    """Sampling of a request to the endpoints: what their clients may set beyond a caption's
    sampling."""

    stop: tuple[str, ...] = ()
    """Texts before which the answer ends."""
    presence_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    """Above 0, tokens that the answer already has become less likely."""
    frequency_penalty: float = Field(0.0, ge=-2.0, le=2.0)
    """Above 0, tokens become less likely each time that the answer has them."""
    top_k: int = Field(0, ge=0)
    """Draw only from this many most likely tokens; 0 draws from all."""
    min_p: float = Field(0.0, ge=0.0, le=1.0)
    """Draw only from tokens with this share of the most likely one's probability."""
    min_tokens: int = Field(0, ge=0)
    """Shortest answer, in tokens."""
    ignore_eos: bool = False
    """Go on to max_tokens, whatever the model says."""
    logit_bias: dict[int, float] = Field(default_factory=dict)
    """Added to the logits of single tokens, by token id."""

    def cut_at_stop(self, text: str) -> str:
        """Cut a text before the first of the stop texts."""
        places = [at for at in map(text.find, self.stop) if at >= 0]
        return text[: min(places)] if places else text


def list_client_changes(sampling: SamplingConfig) -> dict[str, Any]:
    """List what a client's sampling changes beyond a caption's, by the names that vLLM uses."""
    if not isinstance(sampling, ClientSampling):
        return {}
    fields = ClientSampling.model_fields.keys() - SamplingConfig.model_fields.keys()
    found = {name: getattr(sampling, name) for name in sorted(fields)}
    return {name: value for name, value in found.items() if value}


def cut_at_stop(sampling: SamplingConfig, text: str) -> str:
    """Cut a text before the first stop text, if the sampling has any."""
    return sampling.cut_at_stop(text) if isinstance(sampling, ClientSampling) else text
