"""Turns messages into a conversation that every template can express. Pure functions."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby

from serve.api.bodies import AnsweringMessage, ImagePart, Message, Part, RefusalPart, TextPart
from serve.api.fields import refuse_unsupported
from serve.front.refusals import Refusal
from serve.settings import Limits

_INSTRUCTING = ("system", "developer")


@dataclass(frozen=True, slots=True)
class ImagePlace:
    """An image of a conversation.

    Attributes:
        url: Its URL.
        place: Where it stands in the request.
        turn: Index of the question that it belongs to, from 0.
    """

    url: str
    place: str
    turn: int = 0


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation that ends with a question.

    Attributes:
        system: Text of all instructions; None without any.
        earlier: Earlier questions with their answers. A greeting answers an empty question.
        question: The question to answer; empty if the assistant spoke last.
        images: Its images, in order.
    """

    system: str | None
    earlier: tuple[tuple[str, str], ...]
    question: str
    images: tuple[ImagePlace, ...]

    @property
    def digest(self) -> str:
        """Hash of all texts. With a seed it determines the draw, so that the same conversation gets
        the same answer."""
        texts = repr((self.system, self.earlier, self.question))
        return hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class Turn:
    """One message, or several of one role that follow each other.

    Attributes:
        role: system, developer, user or assistant.
        texts: Texts of its parts.
        images: Images of its parts.
    """

    role: str
    texts: tuple[str, ...]
    images: tuple[ImagePlace, ...] = ()

    @property
    def text(self) -> str:
        """Its texts, one on each line."""
        return "\n".join(self.texts)


def read_messages(messages: Sequence[Message], limits: Limits) -> Conversation:
    """Read the conversation of a chat request.

    Raises:
        Refusal: 400; the number of messages, the place of an image or the length is not allowed, or
            a message belongs to a tool.
    """
    turns = [_read_message(message, number) for number, message in enumerate(messages)]
    return build_conversation(turns, limits, "messages")


def build_conversation(turns: Sequence[Turn], limits: Limits, place: str) -> Conversation:
    """Build the conversation that turns of any order amount to.

    Args:
        place: The field of the request that holds the turns.

    Raises:
        Refusal: 400; the number of messages, the place of an image or the length is not allowed.
    """
    if len(turns) > limits.max_turns:
        message = f"{place}: found {len(turns)} messages, allowed {limits.max_turns}."
        raise Refusal(400, "too_many_messages", message, param=place)
    check_length(sum(len(turn.text) for turn in turns), limits, place)
    _refuse_images_elsewhere(turns)
    instructions = [turn.text for turn in turns if turn.role in _INSTRUCTING]
    spoken = _join_neighbours([turn for turn in turns if turn.role not in _INSTRUCTING])
    # Templates know pairs only, so a missing question becomes an empty one.
    if spoken and spoken[0].role == "assistant":
        spoken = [Turn("user", ()), *spoken]
    if not spoken or spoken[-1].role == "assistant":
        spoken.append(Turn("user", ()))
    images = [
        replace(image, turn=number)
        for number, turn in enumerate(spoken[::2])
        for image in turn.images
    ]
    texts = [turn.text for turn in spoken]
    earlier = tuple(zip(texts[0:-1:2], texts[1::2], strict=True))
    system = "\n".join(instructions) if instructions else None
    return Conversation(system, earlier, texts[-1], tuple(images))


def check_length(characters: int, limits: Limits, place: str) -> None:
    """Check the number of characters of a request's texts.

    Raises:
        Refusal: 400, there are too many.
    """
    if characters > limits.max_text_chars:
        message = (
            f"{place}: found {characters} characters of text, allowed {limits.max_text_chars}; "
            "send a shorter text."
        )
        raise Refusal(400, "text_too_long", message, param=place)


def refuse_many_images(conversation: Conversation, most: int) -> None:
    """Refuse a conversation with more images than its model takes.

    Raises:
        Refusal: 400, it has more.
    """
    found = len(conversation.images)
    if found > most:
        allowed = "one image" if most == 1 else f"{most} images"
        message = f"This model takes at most {allowed} in a conversation; found {found}."
        place = conversation.images[most].place
        raise Refusal(400, "too_many_images", message, param=place)


def _read_message(message: Message, number: int) -> Turn:
    refuse_unsupported(message.model_extra, "messages", number)
    content = message.content
    if isinstance(message, AnsweringMessage) and not content:
        content = message.refusal or ""
    if isinstance(content, str):
        return Turn(message.role, (content,))
    place = f"messages[{number}].content"
    return read_parts(message.role, content or [], place)


def read_parts(role: str, parts: Sequence[Part], place: str) -> Turn:
    """Read a message whose content is a list of parts."""
    texts: list[str] = []
    images: list[ImagePlace] = []
    for number, part in enumerate(parts):
        if isinstance(part, TextPart):
            texts.append(part.text)
        elif isinstance(part, RefusalPart):
            texts.append(part.refusal)
        elif isinstance(part, ImagePart):
            found = part.image_url
            url = found if isinstance(found, str) else found.url
            images.append(ImagePlace(url, f"{place}[{number}].image_url"))
    return Turn(role, tuple(texts), tuple(images))


def _refuse_images_elsewhere(turns: Sequence[Turn]) -> None:
    codes = {"assistant": "image_in_answer"}
    for turn in turns:
        if turn.images and turn.role != "user":
            article = "An" if turn.role == "assistant" else "A"
            message = f"{article} {turn.role} message holds no image; put it into a user message."
            code = codes.get(turn.role, "image_in_system")
            raise Refusal(400, code, message, param=turn.images[0].place)


def _join_neighbours(turns: Sequence[Turn]) -> list[Turn]:
    """Join turns of one role that follow each other, as templates join the parts of a message."""
    joined = []
    for role, group in groupby(turns, lambda turn: turn.role):
        same = list(group)
        texts = tuple(text for turn in same for text in turn.texts)
        images = tuple(image for turn in same for image in turn.images)
        joined.append(Turn(role, texts, images))
    return joined
