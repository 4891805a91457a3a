"""How engines are started, and all that a worker needs to start one."""

from dataclasses import dataclass
from typing import Literal

from pydantic import Field

from s4v_core.config import Config

EngineName = Literal["auto", "vllm", "transformers", "openai", "fake"]

CPU_SEQUENCES = 32
"""Most answers that vLLM generates at the same time on a CPU: more only lengthen each step."""


class EngineSettings(Config):
    """How engines are started. Nothing here changes an answer beyond rounding."""

    device: Literal["auto", "gpu", "cpu"] = "auto"
    """Device of the engine; auto takes the CPU if the CPU build of torch is installed, else a
    GPU."""
    dtype: str = "auto"
    """Number format of weights and activations; auto takes the checkpoint's (float32 on a CPU)."""
    max_model_len: int | None = Field(None, ge=1)
    """Longest prompt and answer together, in tokens; never more than the model allows."""
    max_num_seqs: int = Field(256, ge=1)
    """Answers that an engine generates at the same time (at most 32 on a CPU)."""
    max_num_batched_tokens: int | None = Field(None, ge=1)
    """Most tokens in one engine step. Default: vLLM's choice."""
    gpu_memory_utilization: float = Field(0.9, gt=0.0, le=1.0)
    """Share of the GPU's memory that vLLM takes; the vision encoder needs the rest."""
    enforce_eager: bool = False
    """Do without CUDA graphs: starts faster, runs slower. Always so on a CPU."""
    kv_cache_gib: int | None = Field(None, ge=1)
    """Key-value cache of an engine on a CPU, in GiB. Default: what its sequences can fill, at most
    4."""
    cpus: int = Field(2, ge=1)
    """CPUs that each engine reserves."""
    units_in_flight: int = Field(3, ge=1)
    """Units that an engine works on at the same time, so that it never idles between two units."""
    batch_size: int = Field(8, ge=1)
    """Images per batch of engine transformers."""
    url: str | None = None
    """Base address of the endpoint for engine openai (.../v1). Its key comes from
    OPENAI_API_KEY."""
    max_concurrent_requests: int = Field(32, ge=1)
    """Requests that engine openai keeps under way at its endpoint."""
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


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """Everything that a worker needs to start its engine. Small and picklable.

    Attributes:
        model: Folder, URI or hub id of the checkpoint.
        revision: For a checkpoint in a store, the revision that engines must find there.
        images_per_request: Most images that one request holds.
    """

    name: Literal["vllm", "transformers", "openai", "fake", "none"]
    model: str
    template: str
    settings: EngineSettings
    device: Literal["gpu", "cpu"]
    revision: str | None = None
    images_per_request: int = 1

    @property
    def is_remote(self) -> bool:
        """Whether the engine runs behind an endpoint, so that no process here can be its fault."""
        return self.name == "openai"
