"""Floating-point operations of a training step, from the shape of the model. Plain arithmetic.

Model FLOP utilisation counts what the model needs: no padding, and nothing that activation
checkpointing computes twice. A matrix product of an n x m weight takes 2nm operations per token
forward and twice that backward; frozen parts have no backward.
"""

from dataclasses import dataclass

PEAK_FLOPS = {
    "A100": 312e12,
    "H100": 989e12,
    "H200": 989e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "V100": 125e12,
}
"""Dense bf16 (V100: fp16) of the makers' data sheets, SXM where there are several."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes that operations and memory follow from.

    Attributes:
        vision_blocks: Blocks in front of the features; the ones behind are not computed.
        vision_places: Patches and the class token.
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
        """Numbers in the matrices of one layer of the language model."""
        attention = 2 * self.width * (self.width + self.key_value_width)
        return attention + 3 * self.width * self.mlp

    def language_flops(self, tokens: int) -> float:
        """Forward, of one sample of that length, the head at every place."""
        weights = self.layers * self.layer_weights + self.width * self.vocabulary
        return 2.0 * weights * tokens + 4.0 * self.layers * self.width * tokens**2

    def block_flops(self) -> float:
        """Forward, of one image through one block of the vision tower."""
        places, width = self.vision_places, self.vision_width
        weights = 4 * width * width + 2 * width * self.vision_mlp
        return 2.0 * weights * places + 4.0 * width * places**2

    def stem_flops(self) -> float:
        """Forward, of one image cut into patches."""
        return 2.0 * 3 * self.patch_px**2 * self.vision_width * self.image_tokens

    def projector_flops(self) -> float:
        """Forward, of one image."""
        return 2.0 * (self.vision_width + self.width) * self.width * self.image_tokens

    def image_flops(self, vision_from: int | None, stem: bool, projector: bool) -> float:
        """Forward and backward of one image up to the language model."""
        learning = 0 if vision_from is None else max(self.vision_blocks - vision_from, 0)
        frozen = self.vision_blocks - learning
        tower = (frozen + 3 * learning) * self.block_flops()
        edges = (3 if stem else 1) * self.stem_flops()
        return tower + edges + (3 if projector else 1) * self.projector_flops()


def peak_flops(device_name: str) -> float | None:
    """Of a device as its driver names it; None where it is not known, so that nobody guesses."""
    words = device_name.replace("-", " ").split()
    return next((peak for name, peak in PEAK_FLOPS.items() if name in words), None)
