"""Bodies of answers, in OpenAI's form if it has one, and of requests for captions, in which unknown
fields are refused."""

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

from serve.api.fields import refuse_lone_surrogates


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


class _Answer(BaseModel):
    model_config = ConfigDict(use_attribute_docstrings=True)


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
    """The answer to one prompt of a text completion."""

    index: int = 0
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
    max_model_len: int | None = None
    """Most tokens of a prompt and its answer together; null until its engine runs."""


class ModelList(_Answer):
    """All models that are served."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class ResponseAnswer(_Answer):
    """OpenAI's response. It has further fields, which repeat the request."""

    model_config = ConfigDict(use_attribute_docstrings=True, extra="allow")

    id: str
    object: Literal["response"] = "response"
    created_at: int
    """Unix time in seconds."""
    model: str
    status: Literal["completed", "incomplete"]
    output: list[dict[str, Any]]
    """One message, whose content is one part of type output_text."""
    usage: dict[str, Any]


class Version(_Answer):
    """Versions of the software that answers."""

    version: str


class TokenList(_Answer):
    """The tokens of a prompt, as vLLM gives them."""

    count: int
    max_model_len: int | None
    tokens: list[int]
    """Token ids, with one placeholder per image."""
    token_strs: None = None


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

    @model_validator(mode="before")
    @classmethod
    def _refuse_bad_unicode(cls, body: Any) -> Any:
        refuse_lone_surrogates(body)
        return body


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
