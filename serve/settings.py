"""Settings of the application: the fields of `args` in serve/config.yaml."""

from typing import Literal, Self

from pydantic import Field, model_validator

from s4v_core import prompts
from s4v_core.captioning.gate import Gate
from s4v_core.captioning.ladder import Ladder
from s4v_core.config import Config
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.images.policy import DecodeConfig
from serve.front.fetching import FetchConfig
from serve.front.guard import GuardConfig


class Scaling(Config):
    """Autoscaling of one deployment. Every value is set here, because Ray Serve's own defaults for
    LLMs never scale."""

    min_replicas: int = Field(1, ge=0)
    """Replicas that always run. 0 releases the accelerator when there are no requests; the next
    request then waits for an engine to start."""
    max_replicas: int = Field(4, ge=1)
    """Maximum number of replicas."""
    target_ongoing_requests: float = Field(32, gt=0)
    """Running requests per replica above which replicas are added."""
    max_ongoing_requests: int = Field(64, ge=1)
    """Maximum number of running requests per replica; further ones wait in the queue."""
    max_queued_requests: int = Field(64, ge=1)
    """Maximum number of requests waiting at each proxy; further ones are refused with 429 and
    Retry-After."""
    upscale_delay_s: float = Field(30.0, ge=0)
    """Seconds of high load before a replica is added."""
    downscale_delay_s: float = Field(600.0, ge=0)
    """Seconds of low load before a replica is removed. Long, because an engine takes minutes to
    start again."""

    @model_validator(mode="after")
    def _check_bounds(self) -> Self:
        if self.min_replicas > self.max_replicas:
            raise ValueError("min_replicas is above max_replicas")
        return self


class ModelConfig(Config):
    """One model and its engines."""

    id: str = Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")
    """Name of the model in requests."""
    path: str
    """Checkpoint: a folder or URI, a hub id, or `demo` for the demo captioner that ships with this
    package."""
    engine: Literal["vllm", "fake"] = "vllm"
    """Engine that runs the model. `fake` loads no model and derives captions from a hash of the
    pixels, for tests of everything around it."""
    template: str | None = None
    """Conversation template. Unset: the one that the checkpoint names."""
    prompt: str = prompts.CAPTION
    """Prompt for caption requests that bring none."""
    accelerator: str | None = None
    """Ray's accelerator type, for example A100-80G. Unset: any GPU."""
    images: int | None = Field(None, ge=1)
    """Maximum number of images in a conversation. Unset: 1 with a named template, whose models were
    trained with one, and 8 with the checkpoint's own."""
    settings: EngineSettings = EngineSettings()
    """Settings with which its engines are started."""
    sampling: SamplingConfig = SamplingConfig()
    """Sampling of captions, and the default for conversations and completions."""
    gate: Gate = Gate()
    """Quality gate for captions."""
    ladder: Ladder = Ladder()
    """Samplings of the retries after the gate rejects a caption."""
    scaling: Scaling = Scaling()
    """Autoscaling of this model's engine replicas."""

    @model_validator(mode="after")
    def _has_text_rules_only(self) -> Self:
        if self.gate.min_quality is not None or self.gate.plugin:
            raise ConfigError(
                "gate: found min_quality or plugin, which only a batch pass asks; leave them off"
            )
        return self


class Limits(Config):
    """Limits of one request."""

    max_text_chars: int = Field(65_536, ge=1)
    """Maximum number of characters in all texts of a request together."""
    max_turns: int = Field(64, ge=1)
    """Maximum number of messages in a conversation."""
    max_tokens: int = Field(1024, ge=1)
    """Maximum number of tokens in an answer."""
    max_batch_images: int = Field(32, ge=1)
    """Maximum number of images in one request to /v1/captions."""
    timeout_s: float = Field(120.0, gt=0)
    """Seconds from the arrival of a request to the end of its answer."""


class ServeConfig(Config):
    """The whole application: models, ingress and protections."""

    models: tuple[ModelConfig, ...] = Field(min_length=1)
    """Models to serve. Caption requests that name no model go to the first one."""
    ingress: Scaling = Scaling(min_replicas=2, target_ongoing_requests=64, max_ongoing_requests=128)
    """Autoscaling of the ingress replicas, which check requests and decode images. A single one
    would limit the throughput."""
    ingress_cpus: float = Field(1.0, gt=0)
    """Logical CPUs that each ingress replica reserves."""
    decoders: int = Field(2, ge=1)
    """Decoder processes of each ingress replica."""
    guard: GuardConfig = GuardConfig()
    """API keys, request rates and request sizes."""
    limits: Limits = Limits()
    """Limits on the content of a request."""
    fetch: FetchConfig = FetchConfig()
    """Images by URL. Off by default."""
    decode: DecodeConfig = DecodeConfig()
    """Decoding of images, with the same settings and defaults as a batch pass."""
    log_texts: bool = False
    """Write prompts and answers to the log."""
