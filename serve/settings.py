"""What is served and how: the arguments of the one application, as serve/config.yaml has them."""

from typing import Literal, Self

from pydantic import Field, model_validator

from s4v_core import prompts
from s4v_core.captioning.gate import Gate
from s4v_core.config import Config
from s4v_core.engines.requests import EngineSettings, Ladder, SamplingConfig
from s4v_core.images.policy import DecodeConfig
from serve.front.fetching import FetchConfig
from serve.front.guard import GuardConfig


class Scaling(Config):
    """Replicas by load. Ray Serve's LLM defaults never scale; every number here is one."""

    min_replicas: int = Field(1, ge=0)
    """Always there; 0 gives the accelerator back when nobody asks, and the next one waits."""
    max_replicas: int = Field(4, ge=1)
    """At most."""
    target_ongoing_requests: float = Field(32, gt=0)
    """Per replica; above it more replicas start."""
    max_ongoing_requests: int = Field(64, ge=1)
    """Per replica; what comes on top waits in the queue."""
    max_queued_requests: int = Field(64, ge=1)
    """Waiting at each proxy; what comes on top is refused with 429 and Retry-After."""
    upscale_delay_s: float = Field(30.0, ge=0)
    """Load must last so long before a replica is added."""
    downscale_delay_s: float = Field(600.0, ge=0)
    """Calm must last so long before one is taken away: an engine takes minutes to come back."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self


class ModelConfig(Config):
    """One model and its engines."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Name in requests."""
    path: str
    """Checkpoint folder, on any URI, hub id, or `demo` for the shipped demo captioner."""
    engine: Literal["vllm", "fake"] = "vllm"
    """fake: no model, a caption made of the pixels' hash; for tests of everything around it."""
    template: str | None = None
    """Conversation template; unset: the checkpoint's."""
    prompt: str = prompts.CAPTION
    """What an image is asked where a request says nothing."""
    accelerator: str | None = None
    """Ray's accelerator type, for example A100-80G; unset: any GPU."""
    settings: EngineSettings = EngineSettings()
    """How its engines are started."""
    sampling: SamplingConfig = SamplingConfig()
    """Of captions, and of conversations that say nothing else."""
    gate: Gate = Gate()
    """Of captions."""
    ladder: Ladder = Ladder()
    """Of captions that the gate turns down."""
    scaling: Scaling = Scaling()
    """Of its engines."""


class Limits(Config):
    """What one request may ask for."""

    max_text_chars: int = Field(8000, ge=1)
    """Of all texts of a request together."""
    max_turns: int = Field(64, ge=1)
    """Messages of a conversation."""
    max_tokens: int = Field(1024, ge=1)
    """Of an answer."""
    max_batch_images: int = Field(32, ge=1)
    """Images of one request to /v1/captions."""
    timeout_s: float = Field(120.0, gt=0)
    """From a request's arrival to the end of its answer."""


class ServeConfig(Config):
    """The application: models, ingress and protections."""

    models: tuple[ModelConfig, ...] = Field(min_length=1)
    """Models by id; the first one captions where a request names none."""
    ingress: Scaling = Scaling(min_replicas=2, target_ongoing_requests=64, max_ongoing_requests=128)
    """Of the replicas that check requests and decode images. One alone bounds the throughput."""
    ingress_cpus: float = Field(1.0, gt=0)
    """Logical CPUs of an ingress replica."""
    decoders: int = Field(2, ge=1)
    """Decoder processes of an ingress replica."""
    guard: GuardConfig = GuardConfig()
    """Keys, rates and sizes."""
    limits: Limits = Limits()
    """Of a request's content."""
    fetch: FetchConfig = FetchConfig()
    """Images by URL; off."""
    decode: DecodeConfig = DecodeConfig()
    """Of images; the batch pass's own."""
    log_texts: bool = False
    """Write prompts and answers into the log."""
