"""Messages of training JSON in the usual dialects: ShareGPT / LLaVA (`from`, `value`) and OpenAI,
LLaMA-Factory, ms-swift and TRL (`role`, `content`, also in parts). Opens no file.
"""

from dataclasses import dataclass
from typing import Any

from s4v_core.chat import IMAGE
from s4v_core.datasets.bad_fields import BadFieldError, check_text
from s4v_core.datasets.image_fields import DATA_KEYS, NAME_KEYS, NamedImage, read_image

MESSAGE_FIELDS = ("conversations", "messages", "conversation")
"""Fields of a record that hold its messages, in order of preference."""

_ROLES = {
    **dict.fromkeys(("human", "user"), "user"),
    **dict.fromkeys(("gpt", "assistant", "chatgpt", "model", "bot"), "assistant"),
    **dict.fromkeys(("system", "developer"), "system"),
}
_ROLE_KEYS, _TEXT_KEYS = ("from", "role"), ("value", "content")
_UNSUPPORTED = ("tools", "video", "videos", "audio", "audios")
"""Fields whose content no template of ours writes."""


ImageMark = NamedImage | int | None


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: user, assistant or system.
        text: Its text. Of a user it has no image marks any more.
        images: A user's images in order: one that the message names itself, None for a mark, which
            means the next image of the record, or the index that a mark gives this next image.
        field: Path of the message in its record.
    """

    role: str
    text: str
    images: tuple[ImageMark, ...]
    field: str


def read_messages(record: dict[str, Any]) -> list[Message]:
    """The messages of a record, in order; a `system` field is a message in front.

    Raises:
        BadFieldError: A field is missing, of the wrong kind, or says what no template writes.
    """
    for field in _UNSUPPORTED:
        if record.get(field) not in (None, "", [], "[]", {}):
            raise BadFieldError(field, record[field], "none, which no template here writes")
    messages = [_read_message(field, message) for field, message in _list_raw(record)]
    system = record.get("system")
    if system:
        text = check_text("system", system)
        if any(message.role == "system" for message in messages):
            raise BadFieldError("system", system, "no second system text beside a system turn")
        messages.insert(0, Message("system", text, (), "system"))
    return messages


def has_messages(record: Any) -> bool:
    """Whether a value looks like a record with messages."""
    return isinstance(record, dict) and any(
        isinstance(record.get(field), list) for field in (*MESSAGE_FIELDS, "completion")
    )


def _list_raw(record: dict[str, Any]) -> list[tuple[str, Any]]:
    """The messages as they are written, each with its path."""
    for field in MESSAGE_FIELDS:
        messages = record.get(field)
        if isinstance(messages, list):
            return [(f"{field}[{at}]", message) for at, message in enumerate(messages)]
        if messages is not None:
            raise BadFieldError(field, messages, "a list of turns")
    prompt, completion = record.get("prompt"), record.get("completion")  # as TRL writes them
    if isinstance(prompt, list) and isinstance(completion, list):
        for at, message in enumerate(prompt):
            if isinstance(message, dict) and message.get("role") == "assistant":
                raise BadFieldError(f"prompt[{at}]", message, "no answer, which is not learnt")
        return [(f"prompt[{at}]", message) for at, message in enumerate(prompt)] + [
            (f"completion[{at}]", message) for at, message in enumerate(completion)
        ]
    fields = f"fields {', '.join(map(str, record))}" if record else None
    raise BadFieldError("conversations", fields, "conversations or messages, a list of turns")


def _read_message(field: str, message: Any) -> Message:
    if not isinstance(message, dict):
        raise BadFieldError(field, message, "an object with from and value, or role and content")
    role_key = next((key for key in _ROLE_KEYS if key in message), "from")
    text_key = next((key for key in _TEXT_KEYS if key in message), "value")
    said = check_text(f"{field}.{role_key}", message.get(role_key))
    role = _ROLES.get(said.lower())
    if role is None:
        allowed = "human or user, gpt or assistant, or system"
        raise BadFieldError(f"{field}.{role_key}", said, allowed)
    for key, learnt in (("weight", (1, None)), ("loss", (True, None))):
        if role == "assistant" and message.get(key) not in learnt:
            raise BadFieldError(f"{field}.{key}", message[key], "answers that are all learnt")
    content_field = f"{field}.{text_key}"
    text, images = _read_content(content_field, message.get(text_key))
    if role == "user":
        if IMAGE in text:
            text = text.replace(IMAGE, "").strip()  # as preprocess_multimodal does
        return Message(role, text, tuple(images), field)
    if not isinstance(message.get(text_key), str):
        _refuse_images(content_field, message.get(text_key), role)
    return Message(role, text, (), field)


def _read_content(field: str, content: Any) -> tuple[str, list[ImageMark]]:
    """The text of a message, and its images in order; None for a mark without a name."""
    if not isinstance(content, list):
        text = check_text(field, content, "a text, or a list of parts")
        return text, [None] * text.count(IMAGE)
    texts: list[str] = []
    images: list[ImageMark] = []
    for at, part in enumerate(content):
        place = f"{field}[{at}]"
        if isinstance(part, str):
            part = {"type": "text", "text": part}
        if not isinstance(part, dict):
            raise BadFieldError(place, part, "a part with type text, image or image_url")
        kind = part.get("type", "text" if "text" in part else "image")
        if kind in ("text", "input_text", "output_text"):
            texts.append(check_text(f"{place}.text", part.get("text")))
            images += [None] * texts[-1].count(IMAGE)
        elif kind in ("image", "image_url", "input_image"):
            images.append(_read_image_part(place, part))
        else:
            raise BadFieldError(f"{place}.type", kind, "text, image or image_url")
    return "\n".join(texts), images  # joined as the endpoint joins the parts of a question


def _read_image_part(field: str, part: dict[str, Any]) -> ImageMark:
    """The image of a part; None or its index if the part only marks its place."""
    named = {key: part[key] for key in (*NAME_KEYS, *DATA_KEYS) if part.get(key) is not None}
    if named:
        return read_image(field, named)
    index = part.get("index")
    return index if isinstance(index, int) else None


def _refuse_images(field: str, content: Any, role: str) -> None:
    """Refuse a message whose parts hold an image where no image can be."""
    for at, part in enumerate(content if isinstance(content, list) else ()):
        if isinstance(part, dict) and str(part.get("type", "text")).find("image") >= 0:
            raise BadFieldError(f"{field}[{at}]", part, f"no image in a message of the {role}")
