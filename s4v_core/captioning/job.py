"""The caption pass as a value. Imports nothing heavy, so that recipes and --help answer at once."""

from typing import Self

from pydantic import Field, model_validator

from s4v_core.captioning.gate import Gate
from s4v_core.captioning.quality import Quality
from s4v_core.captioning.twins import Dedupe
from s4v_core.checkpoints import is_hub_id, split_revision
from s4v_core.config import Config
from s4v_core.engines.ladder import Ladder
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.engines.settings import EngineName, EngineSettings
from s4v_core.errors import ConfigError
from s4v_core.images.policy import DecodeConfig
from s4v_core.inputs.web_policy import WebPolicy

FREE_TO_CHANGE = (
    # Where things lie; the plan's listing digest tells whether the input is the same.
    *("input", "output", "image_root"),
    # How fast it goes, and on what.
    *("engines", "accelerator", "settings", "web"),
    # Read once, when the plan is made.
    "unit_size",
    # Further work on the run, and notes about it.
    *("retry_errors", "plan", "rate", "price_per_hour", "licences", "demo_scenes"),
    # The commit that it comes to identifies the run.
    "revision",
    "compare_with",
    # The prompts and fields that they come to identify the run.
    *("prompt", "prompts", "prompt_name", "fields", "json_schema"),
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
    revision: str | None = None
    """Branch, tag or commit of a hub model; org/name@revision says the same. Default: the main
    branch."""
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
    prompt_name: str | None = None
    """Prompt of the library by its name: paper, detailed, short, tags, alt-text, ocr,
    joycaption-descriptive, ...; docs/prompts.md lists all of them."""
    prompts: str | None = None
    """File of prompts, of which each image gets one, chosen by its id. One prompt per line, or
    .json(l) with {"prompt": "Its alt text is {alt}. Describe it.", "weight": 2, "source":
    "coco*"}."""
    fields: str | None = None
    """File of fields, each a text of its own for every image, all asked in one pass over it: a JSON
    list of {"name": "tags", "prompt": "...", "sampling": {...}, "gate": {...}, "schema": {...}}.
    docs/fields.md describes it."""
    json_schema: str | None = None
    """File with a JSON schema that captions must follow (the flag --schema means the same); engine
    vllm can write nothing else."""
    prefill: str = ""
    """Start of every answer, which the model continues. It is part of the caption."""
    prepend: str = ""
    """Text put before every caption as it is written, spaces included."""
    append: str = ""
    """Text put behind every caption as it is written, spaces included."""
    cut_prefix_words: tuple[str, ...] = ()
    """Opening that captions lose if they begin with it, such as 'The image shows'. May be
    repeated."""
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
    pixels_max: int | None = Field(None, ge=3136)
    """Most pixels of a picture that the model gets; larger images are scaled down. Default: the
    image itself, up to what the model's processor and --settings.max-model-len allow."""
    limit: int | None = Field(None, ge=1)
    """Caption only the first N images."""
    unit_size: int | None = Field(None, ge=1)
    """Images that are read, captioned and committed together. Default: 256, which take an A100 37 s
    at 7 images/s and make 0.15 MB of rows; fewer where the model takes large pictures."""
    engines: int = Field(1, ge=1)
    """Number of engines, each on GPUs of its own."""
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
    to the column more_captions; with --fields, each field gets as many."""
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

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.input:
            raise ConfigError("input: found none, needed at least one; give --input URI")
        self._refuse_rivals()
        if self.prompt is not None and not self.prompt.strip():
            raise ConfigError("prompt: found an empty text, allowed any other")
        for source in self.sources:
            if not all(source.partition("=")):
                raise ConfigError(f"sources: found {source!r}, allowed NAME=PATTERN")
        self._check_revision()
        if self.gate.min_quality is not None and self.quality.model is None:
            raise ConfigError(
                "gate.min_quality: found no model that scores captions; set --quality.model"
            )
        if self.plan and self.retry_errors:
            raise ConfigError("plan: found --plan and --retry-errors, allowed one of them")
        return self

    def _check_revision(self) -> None:
        if self.revision is None:
            return
        if self.engine in ("openai", "fake") or not is_hub_id(self.model):
            raise ConfigError(
                f"revision: found {self.revision!r} with the model {self.model}, allowed with hub "
                "models only, which are named org/name"
            )
        if split_revision(self.model)[1]:
            raise ConfigError(
                f"revision: found {self.revision!r} and the model {self.model}, allowed one of them"
            )

    def _refuse_rivals(self) -> None:
        asked = {
            "--prompt": self.prompt,
            "--prompts": self.prompts,
            "--prompt-name": self.prompt_name,
        }
        given = [name for name, value in asked.items() if value is not None]
        if len(given) > 1:
            raise ConfigError(f"prompt: found {given[0]} and {given[1]}, allowed one of them")
        texts = {
            "--prefill": self.prefill,
            "--prepend": self.prepend,
            "--append": self.append,
            "--cut-prefix-words": self.cut_prefix_words,
        }
        given_texts = [name for name, value in texts.items() if value]
        if self.json_schema is not None and given_texts:
            raise ConfigError(
                f"json_schema: found --json-schema and {given_texts[0]}, allowed one of them"
            )
        schema = [] if self.json_schema is None else ["--json-schema"]
        if self.fields is not None and (rivals := given + schema + given_texts):
            raise ConfigError(
                f"fields: found --fields and {rivals[0]}, allowed one of them; each field of the "
                "file has its own"
            )
