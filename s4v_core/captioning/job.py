"""The caption pass as a value. Imports nothing heavy, so that recipes and --help answer at once."""

from typing import Self

from pydantic import Field, model_validator

from s4v_core.captioning.gate import Gate
from s4v_core.captioning.ladder import Ladder
from s4v_core.captioning.quality import Quality
from s4v_core.captioning.twins import Dedupe
from s4v_core.config import Config
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineName, EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.images.policy import DecodeConfig
from s4v_core.inputs.web_policy import WebPolicy
from s4v_core.records.schemas import UNIT_SIZE

FREE_TO_CHANGE = (
    # Where things lie; the plan's listing digest tells whether the input is the same.
    *("input", "output", "image_root"),
    # How fast it goes, and on what.
    *("engines", "accelerator", "settings", "web"),
    # Read once, when the plan is made.
    "unit_size",
    # Further work on the run, and notes about it.
    *("retry_errors", "plan", "rate", "price_per_hour", "licences", "demo_scenes"),
    "compare_with",
    # The prompts that they come to identify the run.
    *("prompt", "prompts"),
)
"""Settings that a resumed run may change; all others identify it."""


class CaptionJob(Config):
    """Caption every image of the input, each exactly once."""

    input: tuple[str, ...]
    """Images to caption: a folder, a glob or brace pattern, tar or zip shards, Parquet files, a
    ShareGPT4V/LLaVA JSON, or a .jsonl, .csv, .tsv or .txt that names files or URLs; on any fsspec
    URI. May be repeated."""
    output: str
    """Folder of the run. The same command again resumes it, and captions what is new if the input
    has grown."""
    model: str
    """Vision model that writes the captions: a checkpoint folder on any URI, or a hub id. With
    --engine openai, the name that the endpoint knows it by."""
    image_root: str | None = None
    """Folder of the images that a table or JSON names by relative paths. Default: the folder of
    that file."""
    image_column: str | None = None
    """Column of a table, or field of its records, that holds or names the images. Default: found by
    its name; a note says which one was taken where several could be it."""
    engine: EngineName = "auto"
    """Program that runs the model. auto takes vllm if it is installed, else transformers; openai
    asks an endpoint (--settings.url); fake needs no model."""
    prompt: str | None = None
    """Prompt for every image. Default: the Share-Captioner's instruction."""
    prompts: str | None = None
    """File of prompts, of which each image gets one, chosen by its id. One prompt per line, or
    .json(l) with {"prompt": "Its alt text is {alt}. Describe it.", "weight": 2, "source":
    "coco*"}."""
    sources: tuple[str, ...] = ()
    """NAME=PATTERN assigns images whose id or URI matches to a source; the first match counts. May
    be repeated. Default: the folder that an image lies in."""
    source_column: str | None = None
    """Column of a Parquet, or field of a JSON record or .json sidecar, that names the source."""
    only_missing: str | None = None
    """Leave images alone that have a caption already. txt: in a .txt file of their name; any other
    name: in this column of a table, or field of a JSON record or .json sidecar."""
    licences: tuple[str, ...] = ()
    """LICENCE of the images, or SOURCE=LICENCE for one source, as the data card states it. May be
    repeated."""
    template: str | None = None
    """Chat template: vicuna_v1, or model for the checkpoint's own. Default: what fits the
    architecture."""
    limit: int | None = Field(None, ge=1)
    """Caption only the first N images."""
    unit_size: int = Field(UNIT_SIZE, ge=1)
    """Images that are read, captioned and committed together. 256 images take an A100 37 s at 7
    images/s, and make 0.15 MB of rows."""
    engines: int = Field(1, ge=1)
    """Number of engines, each on a GPU of its own."""
    accelerator: str | None = None
    """GPU type that engines are pinned to, by Ray's name for it: A100-80G, A100, H100, ..."""
    retry_errors: bool = False
    """Caption failed and rejected images again, and replace their rows."""
    plan: bool = False
    """Caption a sample, and predict time, cost and size for the whole input. Writes no captions."""
    rate: float | None = Field(None, gt=0)
    """Known rate of one engine in images per second, for --plan; then no engine is started."""
    price_per_hour: float | None = Field(None, ge=0)
    """Price of one engine's machine per hour, in any currency, for --plan."""
    compare_with: str | None = None
    """Folder of another run over the same images; how its captions differ is printed at the end."""
    sampling: SamplingConfig = SamplingConfig()
    """How captions are drawn."""
    captions_per_image: int = Field(1, ge=1)
    """Captions per image. Those beyond the first are drawn at a higher temperature and are written
    to the column more_captions."""
    dedupe: Dedupe = "off"
    """Caption equal images once: exact compares bytes, perceptual compares a hash of what is
    visible."""
    gate: Gate = Gate()
    """Quality gate: rules about which texts count as captions. Others are drawn again."""
    ladder: Ladder = Ladder()
    """How rejected captions are drawn again."""
    quality: Quality = Quality()
    """Score of how well each caption fits its image."""
    settings: EngineSettings = EngineSettings()
    """How engines are started."""
    decode: DecodeConfig = DecodeConfig()
    """Rules about which images are accepted, and how they are decoded."""
    web: WebPolicy = WebPolicy()
    """How images that are URLs are fetched: politely, and with a bounded patience."""
    demo_scenes: int = Field(0, ge=0)
    """Draw this many scenes into the input folder first. The recipe demo uses it."""

    @property
    def samplings(self) -> tuple[SamplingConfig, ...]:
        """Sampling of every attempt in turn."""
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
        if self.gate.min_quality is not None and self.quality.model is None:
            raise ConfigError(
                "gate.min_quality: found no model that scores captions; set --quality.model"
            )
        if self.plan and self.retry_errors:
            raise ConfigError("plan: found --plan and --retry-errors, allowed one of them")
        return self
