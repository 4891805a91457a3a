"""The caption pass as a value. Imports nothing heavy, so that recipes and --help answer at once."""

from typing import Self

from pydantic import Field, model_validator

from s4v_core.captioning.gate import Gate
from s4v_core.config import Config
from s4v_core.engines.requests import Dedupe, EngineName, EngineSettings, Ladder, SamplingConfig
from s4v_core.errors import ConfigError
from s4v_core.images.policy import DecodeConfig
from s4v_core.records.schemas import UNIT_SIZE


class CaptionJob(Config):
    """Caption every image of the input, each exactly once."""

    input: tuple[str, ...]
    """Folder, glob or brace pattern, .tar shards, Parquet, ShareGPT4V/LLaVA JSON, on any fsspec
    URI. May be repeated."""
    output: str
    """Folder of the run. The same command again resumes it."""
    model: str
    """Checkpoint folder, on any URI, or hub id of a vision model; with --engine openai its name."""
    image_root: str | None = None
    """Where the images lie that a JSON or Parquet names by relative paths; default: beside it."""
    engine: EngineName = "auto"
    """auto takes vllm where it is installed, else transformers; fake needs no model."""
    prompt: str | None = None
    """What the captioner is asked; default: the Share-Captioner's instruction."""
    prompts: str | None = None
    """File of prompts; each image gets one of them, chosen by its id. One per line, or .json(l)
    with {"prompt": "Its alt text is {alt}. Describe it.", "weight": 2, "source": "coco*"}."""
    sources: tuple[str, ...] = ()
    """NAME=PATTERN: images whose id or URI matches belong to that source; the first match counts.
    May be repeated. Default: the folder that an image lies in."""
    source_column: str | None = None
    """Column of a Parquet, field of a JSON record or of a .json sidecar that names the source."""
    licences: tuple[str, ...] = ()
    """LICENCE, or SOURCE=LICENCE for one source: what the data card says of the images. May be
    repeated."""
    template: str | None = None
    """Chat template: vicuna_v1, or model for the checkpoint's own; default: by architecture."""
    limit: int | None = Field(None, ge=1)
    """Caption only the first N images."""
    unit_size: int = Field(UNIT_SIZE, ge=1)
    """Images that are read, captioned and committed together. 256 are 37 s of an A100 at 7 images/s
    and 0.15 MB of rows."""
    engines: int = Field(1, ge=1)
    """Engine actors, one per GPU."""
    accelerator: str | None = None
    """GPU type that engines are pinned to, as Ray names it: A100-80G, A100, H100, ..."""
    retry_errors: bool = False
    """Do failed and rejected images again, and replace their rows."""
    plan: bool = False
    """Measure a sample, say how long the whole input takes, and caption nothing."""
    rate: float | None = Field(None, gt=0)
    """For --plan: images per second of one engine, where it is known; no engine is started."""
    price_per_hour: float | None = Field(None, ge=0)
    """For --plan: of one engine's machine, in any currency."""
    sampling: SamplingConfig = SamplingConfig()
    """How captions are drawn."""
    captions_per_image: int = Field(1, ge=1)
    """Further captions are drawn with a temperature and stand in the column more_captions."""
    dedupe: Dedupe = "off"
    """Caption equal images once: exact looks at bytes, perceptual at a hash of what is seen."""
    gate: Gate = Gate()
    """Which texts are captions; others are drawn again."""
    ladder: Ladder = Ladder()
    """How they are drawn again."""
    settings: EngineSettings = EngineSettings()
    """How engines are started."""
    decode: DecodeConfig = DecodeConfig()
    """Which images are let in."""
    demo_scenes: int = Field(0, ge=0)
    """Draw this many scenes into the input first: the demo's own."""

    @property
    def samplings(self) -> tuple[SamplingConfig, ...]:
        """Of every attempt in turn."""
        return self.ladder.samplings(self.sampling) if self.gate.enabled else (self.sampling,)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.input:
            raise ConfigError("input: found none, needed at least one; give --input URI")
        if self.prompt is not None and self.prompts is not None:
            raise ConfigError("prompt: found --prompt and --prompts, allowed one of them")
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("prompt: found an empty text, allowed any other")
        for source in self.sources:
            if not all(source.partition("=")):
                raise ConfigError(f"sources: found {source!r}, allowed NAME=PATTERN")
        if self.plan and self.retry_errors:
            raise ConfigError("plan: found --plan and --retry-errors, allowed one of them")
        return self
