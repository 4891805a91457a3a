import pytest

from s4v_core.config import Config
from s4v_core.errors import ConfigError


class Inner(Config):
    many: int = 1


class Outer(Config):
    name: str = "a"
    inner: Inner = Inner()


def test_an_unknown_field_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError) as refusal:
        Outer(nmae="b")  # type: ignore[call-arg]
    assert "nmae" in str(refusal.value)
    assert "\n" not in str(refusal.value)


def test_a_wrong_nested_type_is_refused() -> None:
    with pytest.raises(ConfigError, match="many"):
        Outer(inner={"many": "x"})  # type: ignore[arg-type]


def test_replace_validates() -> None:
    assert Outer().replace(name="b").name == "b"
    with pytest.raises(ConfigError):
        Outer().replace(name=3)
