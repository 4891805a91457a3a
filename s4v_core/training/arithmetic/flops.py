"""Counts the floating-point operations of a training step, from the model's sizes alone.

Model FLOP utilisation counts what the model needs: no padding, and nothing that activation
checkpointing computes a second time. A matrix product with an n x m weight takes 2nm operations
per token in the forward pass and twice that in the backward pass; frozen parts have no backward
pass.
"""

from dataclasses import dataclass

_PEAK_FLOPS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
}
"""Peak operations per second for dense bf16 (V100: fp16), from the makers' data sheets; the SXM
variant if there are several."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a model from which operations and memory are computed.

    Attributes:
        vision_blocks: Number of vision blocks up to the features; later ones are not computed.
        vision_width: Width of the vision tower's hidden states.
        vision_mlp: Width inside the vision tower's MLPs.
        vision_places: Number of positions in the vision tower: the patches and the class token.
        patch_px: Side of a patch in pixels.
        layers: Number of layers of the language model.
        width: Width of the language model's hidden states.
        mlp: Width inside the language model's MLPs.
        key_value_width: Width of the keys, and of the values, of all heads together.
        vocabulary: Number of token ids.
    """

    vision_blocks: int
    vision_width: int
    vision_mlp: int
    vision_places: int
    patch_px: int
    layers: int
    width: int
    mlp: int
    key_value_width: int
    vocabulary: int

    @property
    def image_tokens(self) -> int:
        return self.vision_places - 1

    @property
    def layer_weights(self) -> int:
        """Number of weights in the matrices of one layer of the language model."""
        attention = 2 * self.width * (self.width + self.key_value_width)
        return attention + 3 * self.width * self.mlp

    @property
    def kept_per_vision_place(self) -> tuple[int, int]:
        """Numbers that a block which learns keeps for its backward pass, by position: those in the
        precision of the computation, and those in fp32.

        They are the norms' inputs, the inputs of all matrices, and q, k and v; the MLP's quick
        GELU keeps its input and its sigmoid.
        """
        return 8 * self.vision_width + 3 * self.vision_mlp, 0

    @property
    def kept_per_image_token(self) -> int:
        """Numbers that the projector keeps: the inputs of its matrices and of its GELU."""
        return self.vision_width + 2 * self.width

    def count_language_flops(self, tokens: int) -> float:
        """Forward pass of one sample of this length, with the head at every position."""
        weights = self.layers * self.layer_weights + self.width * self.vocabulary
        return 2.0 * weights * tokens + 4.0 * self.layers * self.width * tokens**2

    def count_block_flops(self) -> float:
        """Forward pass of one image through one block of the vision tower."""
        places, width = self.vision_places, self.vision_width
        weights = 4 * width * width + 2 * width * self.vision_mlp
        return 2.0 * weights * places + 4.0 * width * places**2

    def count_stem_flops(self) -> float:
        """Forward pass of one image through the patch embedding."""
        return 2.0 * 3 * self.patch_px**2 * self.vision_width * self.image_tokens

    def count_projector_flops(self) -> float:
        """Forward pass of one image through the projector."""
        return 2.0 * (self.vision_width + self.width) * self.width * self.image_tokens

    def count_image_flops(self, vision_from: int | None, stem: bool, projector: bool) -> float:
        """Forward and backward pass of one image, up to the language model.

        Args:
            vision_from: First vision block that learns; None if none does.
            stem: Whether the patch embedding learns.
            projector: Whether the projector learns.
        """
        learning = 0 if vision_from is None else max(self.vision_blocks - vision_from, 0)
        frozen = self.vision_blocks - learning
        tower = (frozen + 3 * learning) * self.count_block_flops()
        edges = (3 if stem else 1) * self.count_stem_flops()
        return tower + edges + (3 if projector else 1) * self.count_projector_flops()


def find_peak_flops(device_name: str) -> float | None:
    """Peak operations per second of a device, by its driver's name for it; None if not known."""
    words = device_name.replace("-", " ").split()
    return next((peak for name, peak in _PEAK_FLOPS.items() if name in words), None)
