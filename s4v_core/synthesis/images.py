"""Where the images of entries lie: drawn here, or made elsewhere."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from s4v_core.datasets.image_index import ImageIndex, Place
from s4v_core.datasets.image_search import normalise_name
from s4v_core.inputs.image_bytes import read_images
from s4v_core.synthesis.drawing import list_shard_folders
from s4v_core.synthesis.entries import Entry

_BATCH = 128


@dataclass(frozen=True, slots=True)
class PlacedEntry:
    """An entry and its images.

    Attributes:
        names: The images as their inputs name them.
        problem: Why an image cannot be had; None if all are there.
    """

    entry: Entry
    names: tuple[str, ...]
    places: tuple[Place, ...] = ()
    problem: str | None = None

    @property
    def image_ids(self) -> tuple[str, ...]:
        """The images as caption runs name them."""
        return tuple(str(place["image_id"]) for place in self.places)


def list_inputs(output: str, given: Sequence[str]) -> tuple[str, ...]:
    """Where images are looked for: what the user names, or the shards of this output.

    Args:
        output: Folder of the stage that draws.
    """
    return tuple(given) or tuple(list_shard_folders(output))


def place_entries(
    entries: Iterable[Entry], inputs: tuple[str, ...], *, drawn: bool
) -> list[PlacedEntry]:
    """Find the images of entries.

    Args:
        drawn: They were drawn by this output; names that entries bring along are not looked for.

    Raises:
        InputError: An input holds no images at all.
    """
    index = ImageIndex(inputs, match_file_names=False)
    return [_place(entry, index, drawn) for entry in entries]


def read_in_batches(
    entries: Iterable[PlacedEntry],
) -> Iterator[tuple[PlacedEntry, list[bytes | str]]]:
    """Entries with the bytes of their images, or the reason why there are none."""
    waiting: list[PlacedEntry] = []
    for one in entries:
        waiting.append(one)
        if len(waiting) >= _BATCH:
            yield from _read(waiting)
            waiting = []
    yield from _read(waiting)


def _read(entries: list[PlacedEntry]) -> Iterator[tuple[PlacedEntry, list[bytes | str]]]:
    contents = iter(read_images([place for one in entries for place in one.places]))
    for one in entries:
        yield one, [next(contents) for _ in one.places]


def _place(entry: Entry, index: ImageIndex, drawn: bool) -> PlacedEntry:
    names = () if drawn else entry.images
    names = names or tuple(f"{image_id}.png" for image_id in entry.name_images())
    places: list[Place] = []
    for name in names:
        found = index.find(normalise_name(name))
        if isinstance(found, str):
            return PlacedEntry(entry, names, problem=found)
        places.append(found)
    return PlacedEntry(entry, names, tuple(places))
