"""Bodies of requests and answers, in OpenAI's form if it has one. Unknown fields are refused."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class _Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


def _read_integer(value: Any) -> Any:
    """Turn a float such as 1.0 into an integer: JSON does not distinguish the two."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(_read_integer)]
Seed = Annotated[int, Field(ge=0, lt=2**53), BeforeValidator(_read_integer)]
"""Below 2**53, so that every reader of JSON reads the same number."""


class ImageUrl(_Body):
    """The address or the content of an image."""

    url: str
    """A data: URL with base64 content or, if the operator allows it, an https URL."""
    detail: Literal["auto", "low", "high"] | None = None
    """Accepted and ignored: the model sees every image at the same size."""


class TextPart(_Body):
    """Text in a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Body):
    """An image in a message. A conversation contains at most one."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Body):
    """One message of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    """Accepted and ignored."""


class StreamOptions(_Body):
    """Options of a streamed answer."""

    include_usage: bool = False
    """Send one more chunk at the end, with the token counts."""


class _Sampled(_Body):
    model: str
    """Name of the model."""
    max_tokens: Count | None = None
    """Maximum number of tokens in the answer. Unset: the model's own setting."""
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    """Sampling temperature. Unset: the model's own setting."""
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    """Share of probability that tokens are drawn from. Unset: the model's own setting."""
    seed: Seed | None = None
    """Random seed: the same seed draws the same answer. Unset: a new seed for each request."""
    n: Annotated[Literal[1], BeforeValidator(_read_integer)] | None = None
    """Number of answers. Only 1 is supported."""
    stream: bool = False
    """Send the answer in pieces, as server-sent events."""
    stream_options: StreamOptions | None = None
    """Options of a streamed answer."""
    user: str | None = None
    """Accepted and ignored."""


class ChatRequest(_Sampled):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    """Messages in order: at most one system message, which is first; then user and assistant in
    turns, with user last."""
    max_completion_tokens: Count | None = None
    """Newer name of max_tokens; it takes precedence."""


class CompletionRequest(_Sampled):
    """Body of POST /v1/completions."""

    prompt: str = Field(min_length=1)
    """Text to continue. It is passed to the model without a conversation template."""


class Usage(_Answer):
    """Token counts of a request."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(_Answer):
    """The model's message."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(_Answer):
    """The only answer of a chat completion."""

    index: Literal[0] = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatAnswer(_Answer):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    """Unix time in seconds."""
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(_Answer):
    """The only answer of a text completion."""

    index: Literal[0] = 0
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class CompletionAnswer(_Answer):
    """OpenAI's text completion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Unix time in seconds."""
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class ModelCard(_Answer):
    """One model."""

    id: str
    """Name of the model in requests."""
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "s4v"


class ModelList(_Answer):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class CaptionOptions(_Body):
    """Options of a caption: query parameters beside a raw image, or fields of a form."""

    prompt: str | None = None
    """Prompt for the image. Unset: the model's own."""
    source: str | None = None
    """Label of the image for the caller's own use. The answer repeats it."""
    model: str | None = None
    """Name of the model. Unset: the first model."""


def _require_string(name: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"type": "string"}}}


class CaptionRequest(CaptionOptions):
    """An image to caption, given as either `image` or `url`."""

    model_config = ConfigDict(
        json_schema_extra={"oneOf": [_require_string("image"), _require_string("url")]}
    )

    image: str | None = None
    """Base64 text, with or without the head of a data: URL."""
    url: str | None = None
    """An https URL of the image, if the operator allows it."""

    @model_validator(mode="after")
    def _check_one_image(self) -> Self:
        if (self.image is None) == (self.url is None):
            raise PydanticCustomError("one_image", "Send one image: `image` or `url`")
        return self


class BatchRequest(_Body):
    """Body of POST /v1/captions. The answer has one line of NDJSON per image."""

    images: list[CaptionRequest] = Field(min_length=1)
    """Images to caption."""
    prompt: str | None = None
    """Prompt for images that have none."""
    model: str | None = None
    """Model for images that name none."""


class Tokens(_Answer):
    """Token counts of the returned attempt."""

    prompt: int | None
    output: int | None


class Timings(_Answer):
    """Durations in milliseconds."""

    decode_ms: float
    generate_ms: float


class CaptionAnswer(_Answer):
    """The caption of one image, with the fields of a batch pass's rows."""

    id: str
    model: str
    status: Literal["ok", "rejected", "error"]
    """Whether the gate accepted the caption (ok) or rejected it, or there is none (error)."""
    reason: str | None
    """Why the gate rejected the caption (rejected), or why there is no text (error)."""
    caption: str | None
    source: str | None
    prompt: str
    attempts: int
    """Number of captions that were tried."""
    finish_reason: str | None
    tokens: Tokens
    timings: Timings
    width: int
    height: int
    image_sha256: str
    image_format: str
    image_flags: str


class BatchLine(_Answer):
    """One line of the answer of /v1/captions: an answer or an error."""

    index: int
    """Position of the image in the request, from 0."""
    answer: CaptionAnswer | None = None
    error: dict[str, Any] | None = None


class ErrorDetail(_Answer):
    """OpenAI's error object."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(_Answer):
    """Body of every answer with a status of 400 or above."""

    error: ErrorDetail
