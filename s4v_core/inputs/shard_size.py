"""The size of the shards that are written, as a user says it."""

import re
from dataclasses import dataclass

from s4v_core.errors import ConfigError

_UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


@dataclass(frozen=True, slots=True)
class ShardSize:
    """How large a shard may become: in bytes, or in images."""

    size: int
    is_bytes: bool

    @classmethod
    def parse(cls, text: str) -> "ShardSize":
        """The size that a user writes: `1GB`, `500MB`, or `10000` for a number of images.

        Raises:
            ConfigError: It is something else.
        """
        found = re.fullmatch(r"(\d+) ?([KMG]B|)", text.strip(), re.IGNORECASE)
        if not found or not int(found[1]):
            raise ConfigError(
                f"shard size: found {text!r}, allowed a number of images such as 10000, or a size "
                "such as 500MB or 1GB"
            )
        unit = found[2].upper()
        return cls(int(found[1]) * _UNITS[unit], bool(unit))

    def is_reached(self, images: int, size: int) -> bool:
        """Whether a shard of so many images and bytes is full."""
        return (size if self.is_bytes else images) >= self.size
