"""Settings of the application: the fields of `args` in serve/config.yaml."""

from collections.abc import Mapping
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from s4v_core import prompts
from s4v_core.captioning.gate import Gate
from s4v_core.config import Config
from s4v_core.engines.ladder import Ladder
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.images.policy import DecodeConfig
from serve.front.fetching import FetchConfig
from serve.front.guard import GuardConfig

_MODEL_ID = r"^[A-Za-z0-9._-]{1,64}$"
_BUSY_SHARE, _SPARE_SHARE = 0.75, 8


class Scaling(Config):
    """Autoscaling of one deployment. Every value is set here, because Ray Serve's own defaults for
    LLMs never scale."""

    min_replicas: int = Field(1, ge=0)
    """Replicas that always run. 0 releases the accelerator when there are no requests; the next
    request then waits for an engine to start."""
    max_replicas: int = Field(4, ge=1)
    """Maximum number of replicas."""
    target_ongoing_requests: float = Field(128, gt=0)
    """Running requests per replica above which replicas are added."""
    max_ongoing_requests: int = Field(256, ge=1)
    """Maximum number of running requests per replica. Further ones wait in the queue of an engine;
    an ingress replica refuses them with 429."""
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


class EngineScaling(Scaling):
    """Autoscaling of the engines of one model. Two numbers follow from the engine's own limit
    unless they are set."""

    target_ongoing_requests: float | None = Field(None, gt=0)  # type: ignore[assignment]
    """Running requests per replica above which replicas are added. Default: three quarters of the
    sequences that an engine generates at the same time (settings.max_num_seqs). Below that, another
    engine would only make each batch smaller."""
    max_ongoing_requests: int | None = Field(None, ge=1)  # type: ignore[assignment]
    """Maximum number of running requests per replica; further ones wait in the queue. Default: the
    sequences of an engine and an eighth more, so that a place that becomes free is filled at
    once."""

    def fill_in(self, sequences: int) -> Scaling:
        """Copy it with every number set.

        Args:
            sequences: Answers that an engine generates at the same time.
        """
        found = dict(self)
        most = self.max_ongoing_requests or sequences + max(sequences // _SPARE_SHARE, 1)
        found["max_ongoing_requests"] = most
        found["target_ongoing_requests"] = self.target_ongoing_requests or max(
            1.0, min(sequences, most) * _BUSY_SHARE
        )
        return Scaling.model_validate(found)


class AdapterConfig(Config):
    """A LoRA adapter that the engines of a model also serve, as a model of its own."""

    id: str = Field(pattern=_MODEL_ID)
    """Name of the adapter in requests, in place of a model's."""
    path: str
    """LoRA adapter: a folder on any URI, or a hub id."""


class ModelConfig(Config):
    """One model and its engines."""

    id: str = Field(pattern=_MODEL_ID)
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
    adapters: tuple[AdapterConfig, ...] = ()
    """LoRA adapters that its engines serve beside the model itself."""
    scaling: EngineScaling = EngineScaling()
    """Autoscaling of this model's engine replicas."""

    @model_validator(mode="after")
    def _has_text_rules_only(self) -> Self:
        if self.gate.min_quality is not None or self.gate.plugin:
            raise ConfigError(
                "gate: found min_quality or plugin, which only a batch pass asks; leave them off"
            )
        return self


DEMO = (
    ModelConfig(id="share-captioner", path="demo"),
    ModelConfig(id="sharegpt4v-7b", path="demo"),
)
"""Both models without a GPU and without a download."""


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
    engine_start_s: float = Field(600.0, gt=0)
    """Further seconds for a request to a model whose engines were scaled to zero, so that it can
    wait for one to start. Streams get a comment every few seconds meanwhile."""


_LIVE_GROUPS = ("guard", "limits")
_FIXED_FIELDS = frozenset({"keys_file", "open_to_all", "page"})


class ServeConfig(Config):
    """The whole application: models, ingress and protections."""

    models: tuple[ModelConfig, ...] = Field(min_length=1)
    """Models to serve. Caption requests that name no model go to the first one."""
    ingress: Scaling = Scaling(min_replicas=2)
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
    """Write prompts and answers to a log of their own, as JSON lines."""
    log_folder: str = ""
    """Folder of the logs of requests and texts, on each node. Default: that of Serve's own logs."""

    def apply_changes(self, changes: Mapping[str, Any]) -> Self:
        """Copy it with other numbers, from `user_config` of the deployment Ingress.

        Args:
            changes: Fields of `guard` and `limits` by group. Whatever else decides who may do what
                needs a deployment.

        Raises:
            ConfigError: A field is unknown, fixed, or has a value that is not allowed.
        """
        for group, fields in changes.items():
            if group not in _LIVE_GROUPS or not isinstance(fields, Mapping):
                raise ConfigError(
                    f"user_config.{group}: allowed are the fields of {' and '.join(_LIVE_GROUPS)}"
                )
            if fixed := sorted(_FIXED_FIELDS & fields.keys()):
                raise ConfigError(
                    f"user_config.{group}.{fixed[0]} cannot change while the endpoints run; set it "
                    "in args"
                )
        parts = {group: getattr(self, group).replace(**dict(changes[group])) for group in changes}
        return self.replace(**parts)
