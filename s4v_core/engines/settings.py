"""How engines are started, and all that a worker needs to start one."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Self

from pydantic import Field, field_validator, model_validator

from s4v_core.config import Config
from s4v_core.engines.drawing import PaintConfig
from s4v_core.engines.json_settings import dump_mapping, parse_object, refuse_engine_arguments
from s4v_core.errors import ConfigError
from s4v_core.installed_names import list_kv_cache_types, list_quantizations

EngineName = Literal["auto", "vllm", "transformers", "openai", "fake"]

CPU_SEQUENCES = 32
"""Most answers that vLLM generates at the same time on a CPU: more only lengthen each step."""


JsonText = str | None
"""A JSON object as text; None if it is not set."""

_CHANGES = (
    "dtype",
    "quantization",
    "kv_cache_dtype",
    "adapter",
    "gpus_per_engine",
    "nodes_per_engine",
    "encoder_data_parallel",
)
_REQUEST_CHANGES = ("upload", "picture_detail")
_JSON_CHANGES = ("speculative", "mm_processor_kwargs", "engine_args")


class EngineSettings(Config):
    """How engines are started.

    Most settings say only how fast an engine is and how long it is waited for. Those that can
    change an answer (see `list_answer_settings`) identify a run and stand in each of its rows.
    """

    device: Literal["auto", "gpu", "cpu"] = "auto"
    """Device of the engine; auto takes the CPU if the CPU build of torch is installed, else a
    GPU."""
    dtype: str = "auto"
    """Number format of weights and activations; auto takes the checkpoint's (float32 on a CPU)."""
    max_model_len: int | None = Field(None, ge=1)
    """Longest prompt and answer together, in tokens; never more than the model allows. Default:
    what its largest pictures and the longest answer need."""
    max_num_seqs: int = Field(256, ge=1)
    """Answers that an engine generates at the same time (at most 32 on a CPU)."""
    max_num_batched_tokens: int | None = Field(None, ge=1)
    """Most tokens in one engine step. Default: 8192, or one picture's if it takes more."""
    gpu_memory_utilization: float = Field(0.9, gt=0.0, le=1.0)
    """Share of the GPU's memory that vLLM takes; the vision encoder needs the rest."""
    enforce_eager: bool = False
    """Do without CUDA graphs: starts faster, runs slower. Always so on a CPU."""
    kv_cache_gib: int | None = Field(None, ge=1)
    """Key-value cache of an engine, in GiB. Default: on a CPU what its sequences can fill, at most
    4; on a GPU what gpu_memory_utilization leaves for it."""
    gpus_per_engine: int = Field(1, ge=1)
    """GPUs of one node that each engine spreads its model over (tensor parallel). On a CPU, as many
    processes."""
    nodes_per_engine: int = Field(1, ge=1)
    """Nodes that each engine spreads its layers over (pipeline parallel), with gpus_per_engine GPUs
    on each of them."""
    encoder_data_parallel: bool = False
    """Give each GPU of an engine whole images for the vision encoder, instead of a part of its
    weights. Models for which vLLM lacks this share the weights as before."""
    quantization: str | None = None
    """Method by which vLLM quantizes weights as it loads them, for example fp8. Default: what the
    checkpoint says of itself."""
    kv_cache_dtype: str | None = None
    """Number format of vLLM's key-value cache, for example fp8. Default: that of the
    activations."""
    adapter: str | None = None
    """LoRA adapter that every request goes through: a folder on any URI, or a hub id."""
    speculative: JsonText = None
    """JSON of vLLM's speculative_config, for example {"method": "ngram", "num_speculative_tokens":
    4, "prompt_lookup_max": 4}."""
    mm_processor_kwargs: JsonText = None
    """JSON of arguments for the checkpoint's processor, for example {"max_pixels": 1003520}."""
    engine_args: JsonText = None
    """JSON of any other arguments of vllm.AsyncEngineArgs, for example {"block_size": 32}."""
    cpus: int = Field(2, ge=1)
    """CPUs that each engine reserves; at least one for each of its GPUs on a node."""
    units_in_flight: int | None = Field(None, ge=1)
    """Units that an engine works on at the same time, so that it never idles between two units.
    Default: 3 units of 256 images, and more of smaller ones."""
    batch_size: int = Field(8, ge=1)
    """Images per batch of engines transformers and diffusers."""
    url: str | None = None
    """Base address of the endpoint for engine openai (.../v1)."""
    more_endpoints: tuple[str, ...] = ()
    """Further endpoints of the same model for engine openai, each as URL, or as URL=VARIABLE with
    the environment variable that holds its key. May be repeated."""
    key_variable: str = "OPENAI_API_KEY"
    """Environment variable with the key of --settings.url."""
    upload: Literal["png", "jpeg"] = "png"
    """Format in which engine openai sends pictures. A JPEG takes a tenth of the bytes, and is not
    exact."""
    picture_detail: Literal["low", "high", "auto"] | None = None
    """How closely the endpoint's model is asked to look at pictures, where it knows the setting."""
    max_concurrent_requests: int = Field(32, ge=1)
    """Most requests that engine openai keeps under way at each endpoint; fewer after the endpoint
    said that they are too many."""
    request_timeout_s: float = Field(600.0, gt=0)
    """Seconds that engine openai waits for the answer to one request before it sends it again."""
    endpoint_patience_s: float = Field(1800.0, gt=0)
    """Seconds that engine openai repeats a request while its endpoint is down, overloaded or too
    slow; one minute if nothing ever answered there. After that the job ends, and the same command
    resumes it."""
    silence_limit_s: float = Field(120.0, gt=0)
    """An engine on this cluster that has work and shows no progress for this many seconds is killed
    and replaced. Endpoints are never judged by this."""
    max_engine_starts: int = Field(200, ge=1)
    """Start an engine at most this many times, restarts after a crash included; then the job
    ends."""
    fake_latency_s: float = Field(0.0, ge=0.0)
    """Seconds that engine fake takes for one answer."""
    fake_faults: bool = False
    """Let pictures of certain colours break engine fake, to test what happens then."""

    @field_validator(*_JSON_CHANGES, mode="before")
    @classmethod
    def _take_mappings(cls, value: Any) -> Any:
        return dump_mapping(value)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for name in _JSON_CHANGES:
            self.read_json(name)
        refuse_engine_arguments(self.read_json("engine_args"))
        if self.encoder_data_parallel and self.gpus_per_engine == 1:
            raise ConfigError(
                "settings.encoder_data_parallel: needs an engine with several GPUs; set "
                "--settings.gpus-per-engine"
            )
        _refuse_unknown("quantization", self.quantization, list_quantizations)
        _refuse_unknown("kv_cache_dtype", self.kv_cache_dtype, list_kv_cache_types)
        return self

    @property
    def endpoints(self) -> tuple[tuple[str, str], ...]:
        """Address of each endpoint, and the environment variable with its key."""
        if not self.url:
            return ()
        further = (_split_endpoint(one, self.key_variable) for one in self.more_endpoints)
        return ((self.url, self.key_variable), *further)

    @property
    def reserved_cpus(self) -> int:
        """CPUs that an engine reserves: each of its processes keeps one busy."""
        return max(self.cpus, self.gpus_per_engine)

    def read_json(self, name: str) -> dict[str, Any]:
        """The object of a setting that is written as JSON; empty if it is not set.

        Raises:
            ConfigError: The text is no JSON object.
        """
        return parse_object(f"settings.{name}", getattr(self, name))

    def list_request_settings(self) -> dict[str, Any]:
        """As `list_answer_settings`, for an engine behind an endpoint."""
        return self._list_changed(_REQUEST_CHANGES)

    def _list_changed(self, names: tuple[str, ...]) -> dict[str, Any]:
        fields = type(self).model_fields
        plain = {name: getattr(self, name) for name in names}
        return {n: value for n, value in plain.items() if value != fields[n].default}

    def list_answer_settings(self) -> dict[str, Any]:
        """The settings that can change an answer, where they are not the defaults; by name, as
        values that JSON can hold."""
        changed = self._list_changed(_CHANGES)
        objects = {name: self.read_json(name) for name in _JSON_CHANGES}
        return changed | {name: value for name, value in objects.items() if value}


def _split_endpoint(text: str, variable: str) -> tuple[str, str]:
    """Address and variable of `URL=VARIABLE`; an address may hold the mark itself."""
    url, mark, named = text.rpartition("=")
    return (url, named) if mark and named.isidentifier() else (text, variable)


def _refuse_unknown(name: str, value: str | None, list_known: Callable[[], frozenset[str]]) -> None:
    """Refuse a value that the installed vLLM does not know; without a vLLM, nothing is known."""
    known = list_known() if value is not None else frozenset()
    if known and value not in known:
        raise ConfigError(f"settings.{name}: found {value!r}, allowed {', '.join(sorted(known))}")


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything that a worker needs to start its engine. Small and picklable.

    Attributes:
        model: Folder, URI or hub id of the checkpoint.
        revision: For a checkpoint in a store or on the hub, the revision that engines must find
            there.
        images_per_request: Most images that one request holds.
        adapter_revision: Commit or hash of the LoRA adapter's files; None without an adapter.
        adapters: Further LoRA adapters that requests choose by name: name, place and revision.
        shares_images: Whether several requests show the same image, so that what they have in
            common is worth keeping.
        painting: How a painter draws; None for engines that answer with texts.
    """

    name: Literal["vllm", "transformers", "openai", "diffusers", "fake", "none"]
    model: str
    template: str
    settings: EngineSettings
    device: Literal["gpu", "cpu"]
    revision: str | None = None
    images_per_request: int = 1
    adapter_revision: str | None = None
    shares_images: bool = False
    adapters: tuple[tuple[str, str, str], ...] = ()
    painting: PaintConfig | None = None

    @property
    def gpus(self) -> int:
        """GPUs that the engine takes on all of its nodes together."""
        settings = self.settings
        count = settings.gpus_per_engine * settings.nodes_per_engine
        return count if self.device == "gpu" else 0

    @property
    def is_spread(self) -> bool:
        """Whether the engine takes more than one GPU."""
        return self.gpus > 1

    @property
    def spans_nodes(self) -> bool:
        """Whether the engine takes GPUs of more than one node."""
        return self.gpus > self.settings.gpus_per_engine

    @property
    def answer_settings(self) -> dict[str, Any]:
        """Settings that can change an answer and are not the defaults, with the revision of the
        adapter."""
        if self.is_remote:
            return self.settings.list_request_settings()
        if self.painting:
            # The size of a batch changes the last bits of its pictures.
            batch = {"batch_size": self.settings.batch_size}
            return self.settings.list_answer_settings() | self.painting.model_dump() | batch
        if self.name not in ("vllm", "transformers"):
            return {}
        found = self.settings.list_answer_settings()
        return found | ({"adapter_revision": self.adapter_revision} if "adapter" in found else {})

    @property
    def is_remote(self) -> bool:
        """Whether the engine runs behind an endpoint, so that no process here can be its fault."""
        return self.name == "openai"
