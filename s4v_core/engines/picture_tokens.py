"""How many tokens a picture becomes in a checkpoint's own processor, and which pictures fit."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image

Size = tuple[int, int]
"""Width and height, pixels."""

_SHAPES = ((1, 1), (4, 3), (3, 4), (2, 1), (1, 2), (4, 1), (1, 4), (8, 1), (1, 8))
"""Shapes of pictures for which tokens are counted. Models that cut tiles take more of them for some
shapes than for others."""

_SMALL_PX = 448**2
"""Pixels of the smallest pictures that are counted: some models make more tokens of a small or
middle-sized picture than of a large one."""

_SMALLEST_SIDE = 56


class PictureTokens:
    """Counts the tokens of a prompt with one picture."""

    def __init__(self, processor: Any, text: str, options: Mapping[str, Any]) -> None:
        """Args:
        processor: The checkpoint's processor (transformers).
        text: A rendered prompt with one image mark.
        options: Further arguments for the processor.
        """
        self._processor, self._text, self._options = processor, text, dict(options)
        self._fixed: int | None = None

    def count(self, size: Size) -> int:
        """Tokens of the whole prompt with a picture of this size."""
        counted = self._count_quickly(size)
        if counted is None:
            return self.measure(Image.new("RGB", size))
        if self._fixed is None:
            known = self._count_quickly((640, 480))
            assert known is not None, "a processor that counts one size counts all"
            self._fixed = self.measure(Image.new("RGB", (640, 480))) - known
        return counted + self._fixed

    def count_most(self, most_px: int) -> int:
        """Most tokens of the prompt with a picture of any shape and at most so many pixels."""
        areas = [most_px]
        while areas[-1] > _SMALL_PX and self._count_quickly((640, 480)) is not None:
            areas.append(areas[-1] // 2)
        sizes = {size for area in (*areas, min(most_px, _SMALL_PX)) for size in _list_sizes(area)}
        return max(map(self.count, sizes))

    def measure(self, image: Image.Image) -> int:
        """Tokens of the whole prompt with this picture, by running the processor on it."""
        found = self._processor(
            text=[self._text],
            images=[[image]],
            add_special_tokens=False,
            **self._options,
        )
        return len(found["input_ids"][0])

    def _count_quickly(self, size: Size) -> int | None:
        """Tokens of the picture alone, by the processor's own arithmetic; None if it has none."""
        try:
            found = self._processor._get_num_multimodal_tokens(
                image_sizes=[size[::-1]], **self._options
            )
            return int(found["num_image_tokens"][0])
        # Border to foreign code: not every processor can do this for its own settings.
        except Exception:  # noqa: BLE001
            return None


def find_largest_area(
    count_most: Callable[[int], int], most_tokens: int, most_px: int
) -> int | None:
    """The most pixels, up to `most_px`, with which a prompt keeps within `most_tokens`.

    Args:
        count_most: Tokens of the longest prompt with a picture of so many pixels.

    Returns:
        None if even a small picture takes more: this model's tokens do not follow from the size.
    """
    if count_most(most_px) <= most_tokens:
        return most_px
    low, high = 0, most_px  # low fits, high does not
    for fits in (_SMALL_PX, _SMALL_PX // 4):
        if fits < most_px and count_most(fits) <= most_tokens:
            low = fits
            break
    if not low:
        return None
    while high - low > max(low // 64, 1):
        middle = (low + high) // 2
        low, high = (middle, high) if count_most(middle) <= most_tokens else (low, middle)
    return low


def _list_sizes(most_px: int) -> Sequence[Size]:
    """Pictures of every shape with about `most_px` pixels, and not more."""
    sizes = []
    for wide, tall in _SHAPES:
        unit = (most_px / (wide * tall)) ** 0.5
        sizes.append((max(int(wide * unit), _SMALLEST_SIDE), max(int(tall * unit), _SMALLEST_SIDE)))
    return sizes
