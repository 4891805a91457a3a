"""Turns OpenAI's messages into a request to an engine. Pure functions; refuses what a conversation
template cannot express."""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass

from s4v_core.engines.sampling import SamplingConfig
from serve.api.schemas import ChatRequest, CompletionRequest, Message
from serve.front.refusals import Refusal
from serve.settings import Limits


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation that ends with a question.

    Attributes:
        system: Text of the system message; None without one.
        earlier: Earlier questions with their answers.
        question: The question to answer.
        image_url: URL of its only image; None without one.
        image_turn: Index of the question that the image belongs to, from 0.
    """

    system: str | None
    earlier: tuple[tuple[str, str], ...]
    question: str
    image_url: str | None
    image_turn: int

    @property
    def digest(self) -> str:
        """Hash of all texts. With a seed it determines the draw, so that the same conversation gets
        the same answer."""
        texts = repr((self.system, self.earlier, self.question))
        return hashlib.sha256(texts.encode("utf-8", "surrogatepass")).hexdigest()


@dataclass(frozen=True, slots=True)
class _Turn:
    """One message with its text and the URLs of its images."""

    role: str
    text: str
    image_urls: tuple[str, ...]


def read_conversation(messages: Sequence[Message], limits: Limits) -> Conversation:
    """Read a conversation from the messages of a request.

    Raises:
        Refusal: 400; the order of roles, the number or place of images, or the length is not
            allowed.
    """
    if len(messages) > limits.max_turns:
        raise Refusal(400, "too_many_messages", f"At most {limits.max_turns} messages.")
    turns = [_read_turn(message) for message in messages]
    check_length(sum(len(turn.text) for turn in turns), limits)
    system, turns = _split_system(turns)
    _check_roles(turns)
    image_url, image_turn = _find_image(turns)
    texts = [turn.text for turn in turns]
    earlier = tuple(zip(texts[0:-1:2], texts[1::2], strict=True))
    return Conversation(system, earlier, texts[-1], image_url, image_turn)


def _read_turn(message: Message) -> _Turn:
    content = message.content
    if isinstance(content, str):
        return _Turn(message.role, content, ())
    texts = [part.text for part in content if part.type == "text"]
    urls = tuple(part.image_url.url for part in content if part.type == "image_url")
    return _Turn(message.role, "\n".join(texts), urls)


def _split_system(turns: list[_Turn]) -> tuple[str | None, list[_Turn]]:
    """Split off the system message, if the first turn is one."""
    first = turns[0]
    if first.role != "system":
        return None, turns
    if first.image_urls:
        raise Refusal(400, "image_in_system", "A system message holds no image.")
    return first.text, turns[1:]


def _check_roles(turns: list[_Turn]) -> None:
    roles = [turn.role for turn in turns]
    answered = len(roles) // 2
    if roles != ["user", "assistant"] * answered + ["user"]:
        raise Refusal(
            400,
            "bad_turns",
            "After at most one system message, user and assistant take turns; user is last.",
        )


def _find_image(turns: list[_Turn]) -> tuple[str | None, int]:
    """Find the URL of the only image and the index of its question; (None, 0) without an image."""
    questions, answers = turns[::2], turns[1::2]
    if any(turn.image_urls for turn in answers):
        raise Refusal(400, "image_in_answer", "An assistant message holds no image.")
    images = [(url, index) for index, turn in enumerate(questions) for url in turn.image_urls]
    if len(images) > 1:
        raise Refusal(400, "too_many_images", "A conversation holds at most one image.")
    return images[0] if images else (None, 0)


def check_length(characters: int, limits: Limits) -> None:
    """Check the number of characters of a request's texts.

    Raises:
        Refusal: 400, there are too many.
    """
    if characters > limits.max_text_chars:
        raise Refusal(400, "text_too_long", f"At most {limits.max_text_chars} characters of text.")


def read_sampling(
    body: ChatRequest | CompletionRequest, default: SamplingConfig, limits: Limits
) -> SamplingConfig:
    """Read the sampling of a request; what it leaves unset comes from the model's default.

    Raises:
        Refusal: 400, max_tokens is too large.
    """
    newer = body.max_completion_tokens if isinstance(body, ChatRequest) else None
    tokens = newer or body.max_tokens or min(default.max_tokens, limits.max_tokens)
    if tokens > limits.max_tokens:
        raise Refusal(400, "too_many_tokens", f"max_tokens is at most {limits.max_tokens}.")
    changes = {"temperature": body.temperature, "top_p": body.top_p}
    return default.replace(
        max_tokens=tokens,
        seed=secrets.randbits(32) if body.seed is None else body.seed,
        **{name: value for name, value in changes.items() if value is not None},
    )
