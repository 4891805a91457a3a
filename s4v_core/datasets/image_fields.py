"""Names of images in the records of training JSON, as the usual tools write them. Opens no file."""

from dataclasses import dataclass
from typing import Any

from s4v_core.datasets.bad_fields import BadFieldError, check_text
from s4v_core.inputs.image_names import is_inline_image

_IMAGE_FIELDS = ("image", "images", "image_path", "image_paths", "image_file", "image_url", "img")
"""Fields of a record that name its images: a name, a list of names, or objects with one."""

NAME_KEYS = ("path", "image", "url", "image_url", "file_name", "filename", "image_path")
"""Keys of an object that describes an image, in order of preference."""

DATA_KEYS = ("bytes", "base64", "data", "b64_json")
"""Keys of an object that holds an image itself."""


@dataclass(frozen=True, slots=True)
class NamedImage:
    """An image as a record names it.

    Attributes:
        name: The name, exactly as it is written.
        field: Path of the field in the record, such as `images[1]`.
    """

    name: str
    field: str


def list_images(record: dict[str, Any]) -> list[NamedImage]:
    """The images of a record, in order.

    Raises:
        BadFieldError: A field is neither a name nor a list of names, holds the image itself, or
            two fields name different images.
    """
    found: dict[str, list[NamedImage]] = {}
    for field in _IMAGE_FIELDS:
        if images := _read_field(field, record.get(field)):
            found[field] = images
    if not found:
        return []
    (first, images), *others = found.items()
    names = [image.name for image in images]
    for field, more in others:
        if [image.name for image in more] != names:
            raise BadFieldError(field, record[field], f"the images of field {first}, or nothing")
    return images


def _read_field(field: str, value: Any) -> list[NamedImage]:
    if value is None:
        return []
    if isinstance(value, list):
        return [read_image(f"{field}[{at}]", one) for at, one in enumerate(value)]
    return [read_image(field, value)]


def read_image(field: str, value: Any) -> NamedImage:
    """The image that a field names: a path or URL, or an object with one.

    Raises:
        BadFieldError: It is no name, or the image itself, which is not kept with the record.
    """
    if isinstance(value, dict):
        for key in NAME_KEYS:
            if value.get(key) is not None:
                return read_image(f"{field}.{key}", value[key])
        for key in DATA_KEYS:
            if value.get(key) is not None:
                _refuse_inline(f"{field}.{key}")
    name = check_text(field, value, "a path or URL, or an object with one")
    if is_inline_image(name):
        _refuse_inline(field)
    return NamedImage(name, field)


def _refuse_inline(field: str) -> None:
    raise BadFieldError(
        field, "an image", "the path of a file; write the image to one", "inline_image"
    )
