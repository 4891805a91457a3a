"""The interface of a family of models that can be trained."""

from pathlib import Path
from typing import Any, Protocol

from s4v_core.images.policy import Framing
from s4v_core.training.arithmetic.flops import Shape
from s4v_core.training.data.collation import Collator
from s4v_core.training.data.samples import AnyTemplate
from s4v_core.training.stage import TrainStage


class Family(Protocol):
    """Models of one architecture: their template, their pictures, and the files they come in.

    Attributes:
        class_name: transformers' class of the model.
    """

    class_name: str

    def check_job(self, job: TrainStage) -> None:
        """Raises:
        ConfigError: A setting of the job does not go with this family.
        """

    def read_config(self, folder: Path) -> Any:
        """The config of a checkpoint folder, as transformers has it."""

    def check_start(self, model: str, config: Any, tokenizer: Any) -> None:
        """Raises:
        ConfigError: Training does not compute the start model as it is.
        """

    def count_blocks(self, config: Any) -> tuple[int, int]:
        """Number of vision blocks, and number of those up to the one whose output is used."""

    def build_template(self, job: TrainStage, folder: Path, tokenizer: Any) -> AnyTemplate:
        """The template by which conversations become text."""

    def build_collator(
        self, job: TrainStage, folder: Path, config: Any, tokenizer: Any
    ) -> Collator:
        """The collator that makes micro-batches for a checkpoint."""

    def build_framing(self, job: TrainStage, config: Any) -> Framing:
        """How an image becomes the picture that the collator takes."""

    def read_shape(self, config: Any, image_tokens: int | None = None) -> Shape | None:
        """The sizes from which operations are counted. Where images differ in size, they are those
        for images of `image_tokens` tokens, and None without that number."""

    def find_largest_image(self, job: TrainStage, config: Any) -> int:
        """Number of tokens that an image takes at most."""

    def write_settings(self, folder: Path, start: Path, job: TrainStage) -> None:
        """Write config, tokenizer and processor of an exported model, made from those of the start
        model in the folder `start`."""

    def name_on_disk(self, name: str) -> str:
        """Name in a checkpoint's files of a loaded model's parameter."""
