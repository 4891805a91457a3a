"""OpenAI's messages -> what an engine is asked. Pure; refuses what the template cannot say."""

import hashlib
import secrets
from dataclasses import dataclass

from s4v_core.engines.requests import SamplingConfig
from serve.api.schemas import ChatRequest, CompletionRequest, Message
from serve.front.refusals import Refusal
from serve.settings import Limits


@dataclass(frozen=True, slots=True)
class Conversation:
    """Attributes:
    image_url: Of its one image; None without.
    image_turn: Which question the image belongs to, from 0.
    """

    system: str | None
    earlier: tuple[tuple[str, str], ...]
    question: str
    image_url: str | None
    image_turn: int

    @property
    def digest(self) -> str:
        """The same for the same words; with a seed it fixes the draw."""
        whole = repr((self.system, self.earlier, self.question))
        return hashlib.sha256(whole.encode("utf-8", "surrogatepass")).hexdigest()


def read_conversation(messages: list[Message], limits: Limits) -> Conversation:
    """Raises Refusal: An order of turns, a number of images or a length that is not allowed."""
    if len(messages) > limits.max_turns:
        raise Refusal(400, "too_many_messages", f"At most {limits.max_turns} messages.")
    found = [_parts(message) for message in messages]
    check_length(sum(len(text) for text, _ in found), limits)
    system = None
    if messages[0].role == "system":
        if found[0][1]:
            raise Refusal(400, "image_in_system", "A system message holds no image.")
        system = found[0][0]
        messages, found = messages[1:], found[1:]
    roles = [message.role for message in messages]
    if (
        not roles
        or roles != (["user", "assistant"] * len(roles))[: len(roles)]
        or len(roles) % 2 == 0
    ):
        raise Refusal(
            400,
            "bad_turns",
            "After at most one system message, user and assistant take turns; user is last.",
        )
    if any(images for _, images in found[1::2]):
        raise Refusal(400, "image_in_answer", "An assistant message holds no image.")
    pictures = [(turn, url) for turn, (_, urls) in enumerate(found[::2]) for url in urls]
    if len(pictures) > 1:
        raise Refusal(400, "too_many_images", "A conversation holds at most one image.")
    texts = [text for text, _ in found]
    turn, url = pictures[0] if pictures else (0, None)
    earlier = tuple(zip(texts[0:-1:2], texts[1::2], strict=True))
    return Conversation(system, earlier, texts[-1], url, turn)


def check_length(characters: int, limits: Limits) -> None:
    """Raises Refusal: More text than a request may hold."""
    if characters > limits.max_text_chars:
        raise Refusal(400, "text_too_long", f"At most {limits.max_text_chars} characters of text.")


def read_sampling(
    asked: ChatRequest | CompletionRequest, own: SamplingConfig, limits: Limits
) -> SamplingConfig:
    """The model's own sampling with what a request sets. Raises Refusal: Too many tokens."""
    newer = asked.max_completion_tokens if isinstance(asked, ChatRequest) else None
    tokens = newer or asked.max_tokens or min(own.max_tokens, limits.max_tokens)
    if tokens > limits.max_tokens:
        raise Refusal(400, "too_many_tokens", f"max_tokens is at most {limits.max_tokens}.")
    changes = {"temperature": asked.temperature, "top_p": asked.top_p}
    return own.replace(
        max_tokens=tokens,
        seed=secrets.randbits(32) if asked.seed is None else asked.seed,
        **{name: value for name, value in changes.items() if value is not None},
    )


def _parts(message: Message) -> tuple[str, list[str]]:
    """Its words, and the addresses of its images."""
    if isinstance(message.content, str):
        return message.content, []
    texts = [part.text for part in message.content if part.type == "text"]
    return "\n".join(texts), [p.image_url.url for p in message.content if p.type == "image_url"]
