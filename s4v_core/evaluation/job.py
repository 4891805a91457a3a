"""The settings of an evaluation. Imports nothing heavy, so that recipes and --help are quick."""

from typing import Literal

from pydantic import Field, model_validator

from s4v_core.config import Config
from s4v_core.engines.settings import EngineName, EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.images.policy import DecodeConfig

ImageMode = Literal["model", "paper", "pad", "crop"]

FREE_TO_CHANGE = (
    # Where things lie; a digest of all questions and of their images' places tells what they are.
    *("data", "images", "output", "endpoint"),
    # How fast it goes, and on what.
    *("engines", "accelerator", "settings", "unit_size"),
    # Further work on the run.
    *("retry_errors", "plan", "price_per_hour", "demo_scenes"),
    # The commit that it comes to identifies the run.
    "revision",
    # Other work than asking a model.
    *("score_only", "compare", "training_data", "sources"),
)
"""Settings that a resumed run may change; all others identify it."""


class EvalJob(Config):
    """Ask a model the questions of benchmarks and score its answers, or score stored answers."""

    model: str | None = None
    """Model that is asked: a checkpoint folder on any URI, or a hub id. With --endpoint, the name
    that it is known by there; may be left out if it is the only one."""
    endpoint: str | None = None
    """Base address of an OpenAI-compatible endpoint that is asked (.../v1). Its key comes from
    OPENAI_API_KEY."""
    benchmarks: str = ""
    """Benchmarks, separated by commas: llava-w, mme, mmbench, mmbench-cn, seed, mm-vet, qbench,
    scienceqa, vqav2, vizwiz, pope, mmstar, stablellava. Stored answers belong to one of them."""
    data: str = ""
    """Folder of the benchmark's files as they were released, or the one file that is meant. For
    several benchmarks, a folder with a folder for each, named like it."""
    images: str | None = None
    """Folder of the images, if they do not lie with the benchmark's files."""
    output: str = ""
    """Folder of the run, or for scores.json and the file of a remote scorer. The same command again
    resumes a run."""
    score_only: tuple[str, ...] = ()
    """Files of answers, or of a judge's grades, of one model; several are runs whose mean is
    printed too. Repeatable. No model is asked."""
    compare: tuple[str, str] | None = None
    """Two files of answers to the same questions; whether their difference is noise is printed."""
    training_data: tuple[str, ...] = ()
    """Files of training records, as JSON; questions of a benchmark with keywords (stablellava) that
    they answer are printed. Repeatable."""
    sources: bool = False
    """Print where each data set comes from, and under which licence."""
    engine: EngineName = "auto"
    """Program that runs the model. auto takes vllm if it is installed, else transformers; fake
    needs no model."""
    revision: str | None = None
    """Branch, tag or commit of a hub model. Default: the main branch."""
    template: str | None = None
    """Chat template: vicuna_v1, or model for the checkpoint's own. Default: what fits the
    architecture."""
    image_mode: ImageMode = "model"
    """How images become squares, for models that see squares: model does what the checkpoint says,
    paper what the original script of each benchmark did, pad and crop the same for all."""
    max_tokens: int | None = Field(None, ge=1)
    """Longest answer in tokens. Default: 128 or 1,024, as the original script of each benchmark
    had it; never more than that."""
    limit: int | None = Field(None, ge=1)
    """Ask only the first N questions of each benchmark."""
    unit_size: int | None = Field(None, ge=1)
    """Questions that are asked and committed together. Default: 64, or fewer where the model takes
    large pictures."""
    engines: int = Field(1, ge=1)
    """Number of engines, each on GPUs of its own."""
    accelerator: str | None = None
    """GPU type that engines are pinned to, by Ray's name for it: A100-80G, A100, H100, ..."""
    retry_errors: bool = False
    """Ask the questions without an answer again, and replace their rows."""
    plan: bool = False
    """Ask a sample of the questions, and predict time and cost of all. Writes no answers."""
    price_per_hour: float | None = Field(None, ge=0)
    """Price of one engine's machine per hour, in any currency, for --plan."""
    settings: EngineSettings = EngineSettings()
    """How engines are started."""
    decode: DecodeConfig = DecodeConfig()
    """Rules about which images are accepted, and how they are decoded."""
    demo_scenes: int = Field(0, ge=0)
    """Draw this many scenes first, with questions about them in the layouts of mme and mmbench. The
    recipe demo uses it."""

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the benchmarks, each once."""
        names = (name.strip() for name in self.benchmarks.split(","))
        return tuple(dict.fromkeys(name for name in names if name))

    @property
    def asks_model(self) -> bool:
        """Whether a model is asked, rather than stored answers scored."""
        return not (self.score_only or self.compare or self.training_data or self.sources)

    @model_validator(mode="after")
    def _check_completeness(self) -> "EvalJob":
        if self.sources:
            return self
        tasks = [self.score_only, self.compare, self.training_data]
        if sum(map(bool, tasks)) > 1:
            raise ConfigError("give one of --score-only, --compare and --training-data")
        needed: dict[str, object] = {"benchmarks": self.names, "data": self.data}
        needed |= {"output": self.output} if self.score_only or self.asks_model else {}
        needed |= {"model": self.model or self.endpoint} if self.asks_model else {}
        lacking = [f"--{name}" for name, value in needed.items() if not value]
        if lacking:
            raise ConfigError(f"found no {' and no '.join(lacking)}; see --help")
        self._check_model()
        return self

    def _check_model(self) -> None:
        if self.endpoint and self.engine not in ("auto", "openai"):
            raise ConfigError(f"engine: found {self.engine} and an --endpoint, allowed one of them")
        if self.engine == "openai" and not (self.endpoint or self.settings.url):
            raise ConfigError("engine: openai needs the address of its endpoint; set --endpoint")
        if self.plan and self.retry_errors:
            raise ConfigError("plan: found --plan and --retry-errors, allowed one of them")
