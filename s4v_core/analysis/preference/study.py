"""The folder of a study: the images that were drawn, and everybody's votes about them."""

from dataclasses import dataclass

from s4v_core import storage
from s4v_core.analysis.caption_texts import CaptionSet
from s4v_core.analysis.preference.pairs import Draw, Pair, draw_pairs
from s4v_core.annotation.questions import Item
from s4v_core.annotation.vote_store import VoteStore, create_votes, find_votes, has_votes
from s4v_core.runs.identity import refuse_other_settings


@dataclass(frozen=True, slots=True)
class StudySettings:
    """The settings that identify a study.

    Attributes:
        a, b: The two sets.
        images: Inputs with the images.
        count: Images to draw.
        seed: Seed of the draw.
        key: Field that names the image of a record.
        match_file_names: Whether an image may be found by its file name alone.
    """

    a: CaptionSet
    b: CaptionSet
    images: tuple[str, ...] = ()
    count: int = 100
    seed: int = 0
    key: str | None = None
    match_file_names: bool = False

    def as_dict(self) -> dict[str, object]:
        return {
            "a": self._describe(self.a),
            "b": self._describe(self.b),
            "images": [storage.absolute(one) for one in self.images],
            "n": self.count,
            "seed": self.seed,
            "key": self.key,
            "match_file_names": self.match_file_names,
        }

    def _describe(self, one: CaptionSet) -> list[str | None]:
        return [storage.absolute(one.uri), one.field]


def open_study(folder: str, settings: StudySettings) -> tuple[VoteStore, Draw | None]:
    """Open the votes of a study; draw its images at the first time.

    Raises:
        ConfigError: The folder is not on this machine, or holds a study with other settings.
        InputError: A set cannot be read, or they have no image in common.
        StorageError: The folder cannot be written.
    """
    path = find_votes("output", folder)
    drawn: Draw | None = None
    if not has_votes(path):
        drawn = draw_pairs(
            settings.a,
            settings.b,
            settings.images,
            settings.count,
            settings.seed,
            settings.key,
            settings.match_file_names,
        )
        create_votes(path, settings.as_dict(), map(_make_item, drawn.pairs))
    store = VoteStore(path)
    refuse_other_settings(folder, store.settings, settings.as_dict())
    return store, drawn


def _make_item(pair: Pair) -> Item:
    texts = {"a": _clean(pair.a), "b": _clean(pair.b)}
    return Item(_clean(pair.image), texts | {"place": pair.place})


def _clean(text: str) -> str:
    """A text that UTF-8 can hold; JSON may have halves of characters."""
    return text.encode("utf-8", "replace").decode()
