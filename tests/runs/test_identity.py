"""An output folder belongs to one set of settings; settings that came later may be left off."""

import pytest

from s4v_core.errors import ConfigError
from s4v_core.runs.identity import refuse_other_settings

OLD = {"model": "m", "gate": {"min_words": 3}, "prompts": ["a"]}


def test_settings_of_a_later_version_may_be_left_off_at_any_depth() -> None:
    newer = {"gate": {"min_words": 3, "plugin": (), "min_quality": None}, "quality": None}
    refuse_other_settings("out", OLD, OLD | newer)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("gate", {"min_words": 3, "plugin": ("m:f",)}),
        ("gate", {"min_words": 2}),
        ("gate", {}),
        ("quality", {"model": "clip"}),
        ("prompts", ["b"]),
    ],
)
def test_any_other_difference_is_refused(name: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"was made with {name}"):
        refuse_other_settings("out", OLD, OLD | {name: value})
