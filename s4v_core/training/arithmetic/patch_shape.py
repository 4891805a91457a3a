"""The sizes of a model that takes images as patches, in their own sizes: Qwen2.5-VL."""

from dataclasses import dataclass

from s4v_core.training.arithmetic.flops import Shape


@dataclass(frozen=True, slots=True)
class PatchShape(Shape):
    """The sizes of a Qwen2.5-VL and of one image.

    Attributes:
        vision_places: Number of patches of the image; there is no class token.
        merged: Number of patches that become one token.
        frames: Number of frames that a patch covers; a picture is repeated to fill them.
        window_places: Number of patches that attend to each other in most blocks.
        whole_blocks: Number of blocks in which all patches of the image attend to each other.
    """

    merged: int
    frames: int
    window_places: int
    whole_blocks: int

    @property
    def image_tokens(self) -> int:
        return self.vision_places // self.merged

    @property
    def kept_per_vision_place(self) -> tuple[int, int]:
        """See `Shape`. The attention keeps its output twice: by window, and joined."""
        return 11 * self.vision_width + 4 * self.vision_mlp, 2 * self.vision_width

    @property
    def kept_per_image_token(self) -> int:
        """See `Shape`; the merger's norm also keeps an fp32 copy, which counts twice here."""
        return 6 * self.merged * self.vision_width

    def count_block_flops(self) -> float:
        """Forward pass of one image through one block, the mean of all blocks."""
        places, width = self.vision_places, self.vision_width
        weights = 4 * width * width + 3 * width * self.vision_mlp
        in_windows = self.vision_blocks - self.whole_blocks
        seen = self.whole_blocks * places + in_windows * min(self.window_places, places)
        return 2.0 * weights * places + 4.0 * width * places * seen / self.vision_blocks

    def count_stem_flops(self) -> float:
        numbers = 3 * self.frames * self.patch_px**2
        return 2.0 * numbers * self.vision_width * self.vision_places

    def count_projector_flops(self) -> float:
        wide = self.merged * self.vision_width
        return 2.0 * (wide + self.width) * wide * self.image_tokens
