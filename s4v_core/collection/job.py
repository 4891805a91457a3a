"""Collecting a teacher's captions as a value. Imports nothing heavy, so that --help answers at
once."""

from typing import Literal, Self

from pydantic import Field, model_validator

from s4v_core.captioning.gate import Gate
from s4v_core.collection.prompts import ALL_SOURCES, MIDDLES
from s4v_core.config import Config
from s4v_core.engines.ladder import Ladder
from s4v_core.engines.sampling import SamplingConfig
from s4v_core.errors import ConfigError
from s4v_core.images.policy import DecodeConfig
from s4v_core.inputs.web_policy import WebPolicy

DATA_TREE = (
    "coco=*coco/train2017/*",
    "lcs=*llava/llava_pretrain/*",
    "sam=*sam/images/*",
    "textcaps=*share_textvqa/*",
    "wikiart=*wikiart/*",
    "landmark=*web-landmark/*",
    "celebrity=*web-celebrity/*",
)
"""Where the sources lie in the data tree of ShareGPT4V."""


class Endpoint(Config):
    """Where the teacher is reached."""

    url: tuple[str, ...] = ()
    """Base address of an OpenAI-compatible endpoint (.../v1), or URL=VARIABLE with the environment
    variable that holds its key (default: OPENAI_API_KEY). May be repeated; requests go to all of
    them."""
    concurrency: int = Field(32, ge=1)
    """Most requests under way at each endpoint, for each worker; fewer after it said that they are
    too many."""
    timeout_s: float = Field(300.0, gt=0)
    """Seconds to wait for the answer to one request before it is sent again."""
    patience_s: float = Field(1800.0, gt=0)
    """Seconds to repeat a request while its endpoint is down or overloaded; after that the job
    ends, and the same command resumes it."""
    detail: Literal["low", "high", "auto"] | None = "high"
    """How closely the teacher is asked to look at pictures; None sends no such setting."""
    upload: Literal["png", "jpeg"] = "jpeg"
    """Format in which pictures are sent."""


class Budget(Config):
    """Limits on what requests cost. Prices are the user's: they change too often to stand here."""

    requests_per_minute: int | None = Field(None, ge=1)
    """Most requests in any 60 seconds, for each endpoint and key, over all workers together."""
    tokens_per_minute: int | None = Field(None, ge=1)
    """Most tokens of prompts and answers in any 60 seconds, for each endpoint and key."""
    spending: float | None = Field(None, gt=0)
    """Most that the whole run may cost, in the currency of the prices. The job then ends and says
    what is left; a higher limit resumes it."""
    input_price: float | None = Field(None, ge=0)
    """Price of a million tokens of prompts."""
    output_price: float | None = Field(None, ge=0)
    """Price of a million tokens of answers."""

    @model_validator(mode="after")
    def _has_prices(self) -> Self:
        if self.spending is not None and not (self.input_price or self.output_price):
            raise ConfigError(
                "budget.spending: needs prices; set --budget.input-price and --budget.output-price"
            )
        return self


class Batch(Config):
    """OpenAI's Batch API: half the price, an answer within a day."""

    enabled: bool = False
    """Send requests as batches of files, and wait for their answers."""
    price_share: float = Field(0.5, gt=0, le=1)
    """Price of a batched token, as a share of the prices of the budget."""
    max_mib: int = Field(150, ge=1, le=200)
    """Largest file of a batch, in MiB; OpenAI takes 200."""
    max_requests: int = Field(50_000, ge=1)
    """Most requests of a batch; OpenAI takes 50000."""
    max_open: int = Field(4, ge=1)
    """Batches that wait for their answers at the same time."""
    poll_s: float = Field(60.0, gt=0)
    """Seconds between two looks at the batches that wait."""


class CollectJob(Config):
    """Collect a teacher's caption of every image of the input, each exactly once."""

    input: tuple[str, ...]
    """Images to caption: a folder, a glob or brace pattern, tar or zip shards, Parquet files, a
    ShareGPT4V/LLaVA JSON, or a .jsonl, .csv, .tsv or .txt that names files or URLs; on any fsspec
    URI. May be repeated."""
    output: str
    """Folder of the run. The same command again resumes it."""
    model: str
    """Name by which the endpoints know the teacher."""
    image_root: str | None = None
    """Folder of the images that a table or JSON names by relative paths. Default: the folder of
    that file."""
    sources: tuple[str, ...] = DATA_TREE
    """NAME=PATTERN assigns images whose id or URI matches to a source: coco, lcs, sam, textcaps,
    wikiart, landmark or celebrity; the first match counts. May be repeated. Default: the folders of
    ShareGPT4V's data tree."""
    source_column: str | None = None
    """Column of a Parquet, or field of a JSON record or .json sidecar, that names the source."""
    other_sources: Literal["general", "text", "none"] = "general"
    """Middle of the prompt for images of any other source; none leaves them without a caption."""
    aesthetic_share: float = Field(0.1, ge=0, le=1)
    """Share of each source's images whose prompt asks for aesthetic qualities, too. The paper does
    not state its share."""
    unnamed: tuple[str, ...] = ()
    """Source whose captions must not name real people, or * for all. May be repeated."""
    picture_long: int = Field(2048, ge=56)
    """Longest side of the pictures that are sent, in pixels; larger images are scaled down."""
    picture_short: int = Field(768, ge=56)
    """Longest shortest side of the pictures that are sent, in pixels. The defaults are what
    OpenAI's models keep of a picture in high detail."""
    limit: int | None = Field(None, ge=1)
    """Caption only the first N images."""
    unit_size: int = Field(32, ge=1)
    """Images whose rows are committed together. Answers are durable one by one before that."""
    workers: int = Field(1, ge=1)
    """Number of workers that send requests."""
    licences: tuple[str, ...] = ()
    """LICENCE of the images, or SOURCE=LICENCE for one source, as the data card states it. May be
    repeated."""
    retry_errors: bool = False
    """Ask again for images whose captions failed or were rejected, and replace their rows."""
    plan: bool = False
    """Predict tokens, cost and time for the whole input. Sends nothing unless --sample is given."""
    sample: int = Field(0, ge=0)
    """Images that --plan asks the teacher about, for the price of as many captions; 0 predicts from
    the sizes of the pictures."""
    expected_tokens: int = Field(260, ge=1)
    """Tokens of a caption, for --plan without a sample. The paper's captions have 942 characters on
    average, which are about 220."""
    sampling: SamplingConfig = SamplingConfig(max_tokens=1024, temperature=1.0)
    """How captions are drawn."""
    gate: Gate = Gate()
    """Quality gate: rules about which texts count as captions. Others are rejected."""
    ladder: Ladder = Ladder(temperatures=())
    """How rejected captions are drawn again; each attempt costs. Default: not at all."""
    endpoint: Endpoint = Endpoint()
    """Where the teacher is reached, and how."""
    budget: Budget = Budget()
    """Limits on requests, tokens and money, per minute and in all."""
    batch: Batch = Batch()
    """OpenAI's Batch API in place of single requests."""
    decode: DecodeConfig = DecodeConfig()
    """Rules about which images are accepted, and how they are decoded."""
    web: WebPolicy = WebPolicy()
    """How images that are URLs are fetched: politely, and with a bounded patience."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.endpoint.url:
            raise ConfigError("endpoint.url: found none, needed at least one")
        for name in self.unnamed:
            if name not in (*MIDDLES, ALL_SOURCES):
                allowed = ", ".join((*MIDDLES, ALL_SOURCES))
                raise ConfigError(f"unnamed: found {name!r}, allowed {allowed}")
        if self.batch.enabled and self.ladder.temperatures:
            raise ConfigError(
                "batch: found --ladder.temperatures, too, allowed one of them: what is rejected "
                "can only be drawn again by another batch"
            )
        if self.plan and self.retry_errors:
            raise ConfigError("plan: found --plan and --retry-errors, allowed one of them")
        return self
