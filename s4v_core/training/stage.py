"""The settings of a training stage. Imports nothing heavy, so that --help answers at once."""

from typing import Literal, Self

from pydantic import Field, model_validator

from s4v_core.config import Config
from s4v_core.errors import ConfigError
from s4v_core.training.evaluating import Evaluating
from s4v_core.training.lora import LANGUAGE_TARGETS, PROJECTOR_TARGETS, Lora

NEW_DEMO = "new:demo"
"""Value of `model` that means a new model of the demo's shape with random weights."""

NEW_WORLD, NEW_WORLD_LARGE = "new:world", "new:world-large"
"""The same for two sizes of the richer demo world that reproduce.py studies."""

FREE_TO_CHANGE = frozenset(
    (
        "output",
        "accelerator",
        "workers",
        "device_batch_size",
        "activation_checkpointing",
        "loader_workers",
        "prepare_workers",
        "max_missing_share",
        "demo_scenes",
        "saving",
        "store_patience_s",
        "max_missing_share",
        "leave_out",
        "max_failures",
        "expected",
        "plan",
        "show",
        "attention",
        "compile",
        "prefetch",
        "reshard_after_forward",
        "replicas",
        "validate_every_steps",
        "evaluation",
        "log_to",
    )
)
"""Settings that may change when a run is resumed. They change none of its numbers, except for
leave_out, whose samples the run records."""


class Learning(Config):
    """Parts of the model that learn."""

    vision_from: int | None = Field(None, ge=0)
    """First block of the vision tower that learns; by default none does. Blocks after the one
    whose features are used never learn."""
    vision_stem: bool = False
    """Train what comes before the blocks, too: the patch and position embeddings. The paper never
    does; a tower that starts from random weights needs it."""
    projector: bool = True
    """Train the projector."""
    language: bool = True
    """Train the language model, including its embeddings and its head."""


class Optimiser(Config):
    """AdamW; the learning rate rises linearly in the warm-up and then falls to zero as a cosine."""

    learning_rate: float = Field(2e-5, gt=0)
    """Highest learning rate; the same for all parts of the model."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of all steps in which the learning rate rises."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay rate of AdamW's running mean of the gradients."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay rate of AdamW's running mean of the squared gradients."""
    eps: float = Field(1e-8, gt=0)
    """Number that AdamW adds to the denominator, for numerical stability."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled weight decay per step, in units of the learning rate. It applies to matrices alone:
    norms and biases never decay."""
    clip: float = Field(1.0, gt=0)
    """Largest allowed norm of the whole gradient; a larger gradient is scaled down to it."""


class Saving(Config):
    """When checkpoints are written, and how many are kept."""

    every_min: float = Field(15.0, gt=0)
    """Minutes between two checkpoints."""
    every_steps: int | None = Field(None, ge=1)
    """Also save at every multiple of this number of steps."""
    keep: int = Field(2, ge=1)
    """Number of newest checkpoints that are kept. One that is due for evaluation stays until its
    model is exported, as long as the disk has room for the next one."""
    grace_s: float = Field(90.0, ge=0)
    """Seconds after SIGTERM in which a checkpoint is saved; then the process ends in any case."""


class Expected(Config):
    """The sizes that --plan calculates with if the data are not there."""

    samples: int = Field(ge=1)
    """Expected number of samples in an epoch."""
    tokens: int = Field(ge=1)
    """Expected number of tokens in a sample, image included."""
    learnt: int = Field(ge=1)
    """Expected number of tokens in a sample that carry loss."""
    language: Literal["7b", "13b"] = "7b"
    """Vicuna's size that the plan assumes while the model is not there yet."""


class TrainStage(Config):
    """Train a LLaVA-1.5 model on conversations about images."""

    stage: Literal["captioner", "pretrain", "finetune"]
    """One of the paper's three training stages; the progress bar and the model card
    show it."""
    data: tuple[str, ...]
    """JSON of conversations (ShareGPT4V/LLaVA, or OpenAI messages), or the output folder of a
    caption run, on any fsspec URI. May be repeated."""
    images: tuple[str, ...] = ()
    """Folder, tar shards or any other input that captioning takes, with the images that a JSON
    names. May be repeated."""
    image_root: str | None = None
    """Folder of the images that a JSON names by relative paths; by default the JSON's own
    folder."""
    match_file_names: bool = False
    """Take an image whose path is not found from the only image with its file name, whatever the
    folders and endings."""
    model: str
    """Model to start from: a checkpoint folder on any URI, a hub id, or new:demo, new:world or
    new:world-large for a small new model."""
    output: str
    """Folder of the run. Running the same command again resumes it."""
    template: Literal["vicuna_v1", "plain", "model"]
    """Chat template; model is the checkpoint's own, for Qwen2.5-VL."""
    image_mode: Literal["crop", "pad", "native"]
    """How an image is framed: crop keeps the centre of it as a square, pad keeps all of it and adds
    a border; native keeps its shape, for Qwen2.5-VL."""
    pixels_max: int = Field(1280 * 28 * 28, ge=4 * 28 * 28)
    """Largest number of pixels that an image keeps with image_mode native; the default makes 1,280
    tokens, as Qwen2.5-VL's authors recommend. The exported processor has the same limit."""
    learning: Learning
    """Parts of the model that learn."""
    optimiser: Optimiser = Optimiser()
    """Settings of the optimiser."""
    batch_size: int = Field(ge=1)
    """Number of samples in one step, over all workers."""
    device_batch_size: int = Field(ge=1)
    """Largest number of samples that a worker computes at once; it accumulates the rest of its
    share of a step."""
    epochs: int = Field(1, ge=1)
    """How many times the run goes through all samples."""
    max_steps: int | None = Field(None, ge=1)
    """End the run, and its learning-rate schedule, after this many steps; by default after all
    epochs."""
    max_tokens: int = Field(2623, ge=8)
    """Longest sample in tokens, image included. Longer text is cut; an image never is. The
    original cuts at 2,048 tokens with the image counted as one token, which makes 2,623."""
    group_by_modality: bool = False
    """Make each step of samples that all have an image, or of samples that all have none."""
    seed: int = 0
    """Seed of everything random, such as the order of samples and a new model's weights."""
    workers: int = Field(0, ge=0)
    """Number of training workers on the Ray cluster, one per GPU; 0 trains in this process,
    without Ray."""
    accelerator: str | None = None
    """GPU type that workers must run on, as Ray names it: A100-80G, H100, ..."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device to train on; auto uses GPUs if there are any."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of the computation; weights are always kept in fp32. With auto it is bf16 on GPUs
    and fp32 on CPUs."""
    activation_checkpointing: bool = True
    """Compute activations again in the backward pass instead of keeping them in memory."""
    loader_workers: int = Field(2, ge=0)
    """Number of processes per worker that read and decode images ahead."""
    prepare_workers: int | None = Field(None, ge=0)
    """Number of processes that turn conversations into tokens; 0 does it in this process. By
    default one per core of this machine, at most 16, if the data are large."""
    max_missing_share: float = Field(0.01, ge=0, le=1)
    """Largest share of unusable samples with which a run still starts. A run that is going to lose
    a larger share of its samples, to images that cannot be read, saves a checkpoint and stops."""
    leave_out: tuple[str, ...] = ()
    """File with ids of samples, one in a line, that are not trained on from now on, such as the
    file that a stopped run names. The run remembers them. May be repeated."""
    store_patience_s: float = Field(600.0, ge=0)
    """Seconds for which a running training waits for a store that does not answer, before it saves
    a checkpoint and stops."""
    max_failures: int = Field(3, ge=0)
    """How many times dead workers are replaced before the run gives up."""
    saving: Saving = Saving()
    """When checkpoints are written, and how many are kept."""
    attention: Literal["auto", "sdpa", "flex", "flash"] = "auto"
    """Attention kernel of the language model: sdpa with a dense mask where samples share a row,
    flex_attention with a mask of blocks, or FlashAttention over all samples as one row; auto is
    sdpa. The last two need a GPU."""
    compile: bool = False
    """Compile each block of the model with torch.compile; the first steps take minutes."""
    prefetch: int = Field(0, ge=0)
    """Blocks whose weights are gathered ahead of the one that is computed; 0 leaves it to FSDP."""
    reshard_after_forward: bool = True
    """Free a block's gathered weights after its forward pass. Without, they are gathered once per
    micro-batch instead of twice, and every GPU needs room for the whole model."""
    replicas: int = Field(1, ge=1)
    """Number of groups of workers that each hold the whole model (HSDP): with one group per node,
    weights never travel between nodes and only gradients do."""
    lora: Lora = Lora()
    """Adapters that learn in place of the weights."""
    validation_share: float = Field(0.0, ge=0, lt=1)
    """Share of the samples that is held out of training; their loss is measured."""
    validate_every_steps: int = Field(100, ge=1)
    """Steps between two measurements of the held-out loss; there is one after the last step."""
    evaluation: Evaluating = Evaluating()
    """Evaluation of checkpoints on benchmarks, each as its own Ray task beside training."""
    log_to: tuple[Literal["wandb", "mlflow"], ...] = ()
    """Services that get every step's metrics, too: wandb or mlflow. Their own environment variables
    say where they are."""
    expected: Expected
    """Sizes that --plan calculates with."""
    plan: bool = False
    """Print what would learn, how much memory it needs and how long it takes; train nothing. The
    job's data are counted if they are there."""
    show: int = Field(0, ge=0)
    """Print this many samples as the model sees them, with learnt tokens in colour; train
    nothing."""
    demo_scenes: int = Field(0, ge=0)
    """Draw this many scenes first and train on them; for the demo. A recipe's number is dropped if
    the job names data or images of its own."""

    @property
    def rounds(self) -> int:
        """Number of micro-batches that each worker accumulates into a step."""
        return -(-self.batch_size // (max(self.workers, 1) * self.device_batch_size))

    @model_validator(mode="after")
    def _check_combinations(self) -> Self:
        if not self.data:
            raise ConfigError("data: found none, needed at least one; give --data URI")
        if self.batch_size < self.workers:
            raise ConfigError(
                f"batch_size: found {self.batch_size}, which leaves some of {self.workers} workers "
                f"without a sample; allowed {self.workers} or more, or fewer --workers"
            )
        learning = self.learning
        if learning.vision_from is None and not (
            learning.vision_stem or learning.projector or learning.language
        ):
            raise ConfigError(
                "learning: found no part that learns; allowed at least one of "
                "--learning.vision-from, --learning.vision-stem, --learning.projector and "
                "--learning.language"
            )
        if self.device == "cpu" and self.precision == "bf16":
            raise ConfigError("precision: found bf16 on cpu, allowed fp32 there")
        if max(self.workers, 1) % self.replicas:
            raise ConfigError(
                f"replicas: found {self.replicas} for {max(self.workers, 1)} workers, allowed "
                "numbers that divide the number of workers"
            )
        if self.device == "cpu" and self.attention in ("flex", "flash"):
            raise ConfigError(
                f"attention: found {self.attention} on cpu, allowed auto and sdpa there: the "
                "kernel has no backward pass on CPUs"
            )
        self._check_lora()
        if self.plan and self.show:
            raise ConfigError("plan: found --plan and --show, allowed one of them")
        return self

    def _check_lora(self) -> None:
        """Refuse adapters beside weights that learn, and adapters on nothing."""
        learning, targets = self.learning, set(self.lora.targets)
        if not self.lora.rank:
            return
        if learning.vision_from is not None or learning.vision_stem:
            raise ConfigError(
                "lora.rank: found a vision tower that learns, allowed only adapters on language "
                "and projector; leave out --learning.vision-from and --learning.vision-stem"
            )
        on_language = learning.language and targets & set(LANGUAGE_TARGETS)
        on_projector = learning.projector and targets & set(PROJECTOR_TARGETS)
        if not on_language and not on_projector:
            raise ConfigError(
                f"lora.targets: found {', '.join(self.lora.targets)}, which are all in parts that "
                "do not learn; allowed those of --learning.language and --learning.projector"
            )
