"""A training stage as a value. Imports nothing heavy, so that recipes and --help answer at once."""

from typing import Literal, Self

from pydantic import Field, model_validator

from s4v_core.config import Config
from s4v_core.errors import ConfigError

NEW_DEMO = "new:demo"
"""As a model: the demo shape with random weights."""

# What may differ between a run and its resumption: it changes no number of the run.
FREE_TO_CHANGE = frozenset(
    (
        "accelerator",
        "workers",
        "loader_workers",
        "saving",
        "max_failures",
        "expected",
        "plan",
        "show",
    )
)


class Learning(Config):
    """Which parts of the model learn."""

    vision_from: int | None = Field(None, ge=0)
    """First block of the vision tower that learns; default: none. Blocks behind the one that
    features are taken from never do."""
    vision_stem: bool = False
    """Whether what lies before the blocks learns too: patches and positions. The paper's never
    do; a tower that starts from nothing needs it."""
    projector: bool = True
    """Whether the projector learns."""
    language: bool = True
    """Whether the language model learns, with its embeddings and its head."""


class Optimiser(Config):
    """AdamW with a cosine to zero behind a linear warm-up."""

    learning_rate: float = Field(2e-5, gt=0)
    """Highest learning rate, of all parts alike."""
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    """Share of all steps in which the learning rate rises."""
    beta1: float = Field(0.9, ge=0, lt=1)
    """Decay of the mean of gradients."""
    beta2: float = Field(0.999, ge=0, lt=1)
    """Decay of the mean of their squares."""
    eps: float = Field(1e-8, gt=0)
    """Added to the root of the second moment."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled decay per step, in units of the learning rate."""
    clip: float = Field(1.0, gt=0)
    """Largest norm of the whole gradient; beyond it, all of it is scaled down."""


class Saving(Config):
    """When checkpoints are written, and how many stay."""

    every_min: float = Field(15.0, gt=0)
    """Minutes between two checkpoints."""
    every_steps: int | None = Field(None, ge=1)
    """Save at multiples of this step as well."""
    keep: int = Field(2, ge=1)
    """Newest checkpoints that stay."""


class Expected(Config):
    """What --plan counts with: the data need not be there."""

    samples: int = Field(ge=1)
    """Samples of an epoch."""
    tokens: int = Field(ge=1)
    """Of a sample, image included."""
    learnt: int = Field(ge=1)
    """Tokens of a sample that carry loss."""


class TrainStage(Config):
    """Train a LLaVA-1.5 model on conversations about images."""

    stage: Literal["captioner", "pretrain", "finetune"]
    """Which of the paper's three trainings this is; names the run."""
    data: tuple[str, ...]
    """ShareGPT4V/LLaVA JSON, or the output folder of a caption run, on any fsspec URI. May be
    repeated."""
    images: tuple[str, ...] = ()
    """Where the images lie that a JSON names: anything that captioning takes, tar shards too."""
    image_root: str | None = None
    """Folder of the images that a JSON names by relative paths; default: beside it."""
    model: str
    """Checkpoint folder, on any URI, or hub id to start from; new:demo for a small new one."""
    output: str
    """Folder of the run. The same command again resumes it."""
    template: Literal["vicuna_v1", "plain"]
    """Chat template."""
    image_mode: Literal["crop", "pad"]
    """crop: centre of the image; pad: all of it, on a square."""
    learning: Learning
    """What learns."""
    optimiser: Optimiser = Optimiser()
    """How it learns."""
    batch_size: int = Field(ge=1)
    """Samples of one step, over all workers."""
    device_batch_size: int = Field(ge=1)
    """Samples that a worker computes at once; the rest of its share is accumulated."""
    epochs: int = Field(1, ge=1)
    """How often every sample is seen."""
    max_steps: int | None = Field(None, ge=1)
    """Stop the schedule after this many steps; default: all epochs."""
    max_tokens: int = Field(2623, ge=8)
    """Longest sample in tokens, image included; its text is cut, its image never. The original
    cuts at 2,048 with the image counted as one: 2,623."""
    group_by_modality: bool = False
    """Whether a step holds only samples with images or only samples without."""
    seed: int = 0
    """Decides the order of samples, and nothing else does."""
    workers: int = Field(0, ge=0)
    """Training workers on the Ray cluster, one per GPU; 0 trains in this process, without Ray."""
    accelerator: str | None = None
    """GPU type that workers are pinned to, as Ray names it: A100-80G, H100, ..."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """auto takes GPUs where there are any."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """What is computed in; weights are kept in fp32. auto: bf16 on GPUs, fp32 on CPUs."""
    activation_checkpointing: bool = True
    """Compute activations again in the backward pass instead of keeping them."""
    loader_workers: int = Field(2, ge=0)
    """Processes per worker that read and decode images ahead."""
    max_missing_share: float = Field(0.01, ge=0, le=1)
    """A run with a larger share of samples that cannot be used does not start."""
    max_failures: int = Field(3, ge=0)
    """How often dead workers are replaced before the run gives up."""
    saving: Saving = Saving()
    """Checkpoints."""
    expected: Expected
    """What --plan counts with."""
    plan: bool = False
    """Say what would learn, how much memory it takes and how long; train nothing."""
    show: int = Field(0, ge=0)
    """Print this many samples as the model sees them, learnt tokens in colour; train nothing."""
    demo_scenes: int = Field(0, ge=0)
    """Draw this many scenes to train on first: the demo's own."""

    @property
    def rounds(self) -> int:
        """Micro-batches that each worker accumulates into a step."""
        return self.batch_size // (max(self.workers, 1) * self.device_batch_size)

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if not self.data:
            raise ConfigError("data: found none, needed at least one; give --data URI")
        share = max(self.workers, 1) * self.device_batch_size
        if self.batch_size % share:
            below = self.batch_size // share * share
            raise ConfigError(
                f"batch_size: found {self.batch_size}, which {max(self.workers, 1)} workers with "
                f"{self.device_batch_size} samples at once cannot share equally; allowed "
                f"multiples of {share}, such as {below or share}"
                + (f" or {below + share}" if below else "")
            )
        if self.device == "cpu" and self.precision == "bf16":
            raise ConfigError("precision: found bf16 on cpu, allowed fp32 there")
        if self.plan and self.show:
            raise ConfigError("plan: found --plan and --show, allowed one of them")
        return self
