"""Small new models with random weights, by the names that a stage gives them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from s4v_core.demo import texts
from s4v_core.demo.world import lessons
from s4v_core.model.builders import (
    DEMO_BLOCKS,
    DEMO_VOCABULARY,
    WORLD_BLOCKS,
    WORLD_VOCABULARY,
    build_demo_config,
    build_new_model,
    build_tokenizer,
    build_world_config,
)
from s4v_core.training.stage import NEW_DEMO, NEW_WORLD, NEW_WORLD_LARGE


@dataclass(frozen=True, slots=True)
class NewModel:
    """A kind of new model.

    Attributes:
        name: What it is, for an estimate.
        blocks: Number of its vision blocks, the last one unused.
        build_corpus, phrases, vocabulary: What its tokenizer is made of.
        repeats_words: Whether its head starts as its embedding.
    """

    name: str
    blocks: int
    build_corpus: Callable[[], Sequence[str]]
    phrases: Sequence[str]
    vocabulary: int
    choose_config: Callable[[Any], Any]
    repeats_words: bool = False

    def build_tokenizer(self) -> Any:
        return build_tokenizer(self.build_corpus(), self.vocabulary, self.phrases)

    def write(self, folder: Path, seed: int) -> None:
        """Write the model; the same seed gives the same files."""
        tokenizer = self.build_tokenizer()
        config = self.choose_config(tokenizer)
        build_new_model(folder, seed, config, tokenizer, self.repeats_words)


def _describe_world(size: str, is_large: bool) -> NewModel:
    return NewModel(
        f"the {size} shape of the richer demo world",
        WORLD_BLOCKS,
        lessons.build_corpus,
        lessons.PHRASES,
        WORLD_VOCABULARY,
        lambda tokenizer: build_world_config(tokenizer, is_large),
        repeats_words=True,
    )


NEW_MODELS: dict[str, NewModel] = {
    NEW_DEMO: NewModel(
        "the demo's shape",
        DEMO_BLOCKS,
        texts.build_corpus,
        texts.PHRASES,
        DEMO_VOCABULARY,
        build_demo_config,
    ),
    NEW_WORLD: _describe_world("small", is_large=False),
    NEW_WORLD_LARGE: _describe_world("large", is_large=True),
}
"""Kinds of new models by the value of `model`."""
