"""A file of an input, and what it is by its name."""

from dataclasses import dataclass

from s4v_core.inputs.file_kinds import (
    NAMED_KINDS,
    find_container,
    is_companion,
    is_image,
    relative_name,
    split_name,
)
from s4v_core.storage import StoredFile


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A file of an input.

    Attributes:
        folder: The folder that its id is relative to.
        is_named: Whether the input names the file itself, and not a folder of it.
        name: Its path below `folder`.
        role: The kind of its container; or image, companion, unknown.
        ending: Ending of a container file.
    """

    file: StoredFile
    folder: str
    is_named: bool
    name: str
    role: str
    ending: str

    @property
    def is_container(self) -> bool:
        return bool(self.ending)

    @property
    def key(self) -> str:
        """The part of the name that an image and its sidecars have in common."""
        return split_name(self.name)[0]


def classify(file: StoredFile, folder: str, is_named: bool) -> FoundFile:
    name = relative_name(file.uri, folder)
    container = find_container(name)
    if container and (is_named or container[0] not in NAMED_KINDS):
        role, ending = container
    elif is_named or is_image(name):
        role, ending = "image", ""
    else:
        role, ending = "companion" if is_companion(name) else "unknown", ""
    return FoundFile(file, folder, is_named, name, role, ending)
