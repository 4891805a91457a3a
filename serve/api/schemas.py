"""Bodies of requests and answers: OpenAI's where OpenAI has one. What is not listed is refused."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError


class _Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, use_attribute_docstrings=True)


def _whole(value: Any) -> Any:
    """In JSON 1.0 is an integer."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


Count = Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(_whole)]
Seed = Annotated[int, Field(ge=0, lt=2**53), BeforeValidator(_whole)]
"""Up to what every reader of JSON takes for the same number."""


class ImageUrl(_Body):
    """An image of a message."""

    url: str
    """data:image/...;base64,... or, where the operator allows it, https://..."""
    detail: Literal["auto", "low", "high"] | None = None
    """Taken and ignored: the model sees one size."""


class TextPart(_Body):
    """Words of a message."""

    type: Literal["text"]
    text: str


class ImagePart(_Body):
    """An image of a message. A conversation has one at most."""

    type: Literal["image_url"]
    image_url: ImageUrl


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Message(_Body):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: str | list[Part]
    name: str | None = None
    """Taken and ignored."""


class StreamOptions(_Body):
    """How an answer is streamed."""

    include_usage: bool = False
    """One more chunk at the end, with the numbers of tokens."""


class _Sampled(_Body):
    model: str
    max_tokens: Count | None = None
    """Longest answer."""
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    """Unset: the model's own setting."""
    top_p: float | None = Field(None, gt=0.0, le=1.0)
    """Unset: the model's own setting."""
    seed: Seed | None = None
    """The same seed draws the same answer; unset: another one each time."""
    n: Annotated[Literal[1], BeforeValidator(_whole)] | None = None
    """Answers; one."""
    stream: bool = False
    """Pieces as server-sent events."""
    stream_options: StreamOptions | None = None
    user: str | None = None
    """Taken and ignored."""


class ChatRequest(_Sampled):
    """POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    """system at most once and first, then user and assistant by turns, user last."""
    max_completion_tokens: Count | None = None
    """The newer name of max_tokens."""


class CompletionRequest(_Sampled):
    """POST /v1/completions: the text goes to the model as it is."""

    prompt: str = Field(min_length=1)


class Usage(BaseModel):
    """Tokens."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class AnswerMessage(BaseModel):
    """What the model said."""

    role: Literal["assistant"] = "assistant"
    content: str


class ChatChoice(BaseModel):
    """The one answer."""

    index: Literal[0] = 0
    message: AnswerMessage
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class ChatAnswer(BaseModel):
    """OpenAI's chat completion."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[ChatChoice]
    usage: Usage


class CompletionChoice(BaseModel):
    """The one answer."""

    index: Literal[0] = 0
    text: str
    finish_reason: Literal["stop", "length"]
    logprobs: None = None


class CompletionAnswer(BaseModel):
    """OpenAI's text completion."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    model: str
    choices: list[CompletionChoice]
    usage: Usage


class ModelCard(BaseModel):
    """One model."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "s4v"


class ModelList(BaseModel):
    """GET /v1/models."""

    object: Literal["list"] = "list"
    data: list[ModelCard]


class CaptionOptions(_Body):
    """What is said beside an image: query of a raw body, fields of a form."""

    prompt: str | None = None
    """Unset: the model's own."""
    source: str | None = None
    """Given back, for the caller's books."""
    model: str | None = None
    """Unset: the first one."""


def _given(name: str) -> dict[str, Any]:
    return {"required": [name], "properties": {name: {"type": "string"}}}


class CaptionRequest(CaptionOptions):
    """POST /v1/caption as JSON: `image` or `url`."""

    model_config = ConfigDict(json_schema_extra={"oneOf": [_given("image"), _given("url")]})

    image: str | None = None
    """Base64, with or without a data: head."""
    url: str | None = None
    """https://..., where the operator allows it."""

    @model_validator(mode="after")
    def _has_one_image(self) -> Self:
        if (self.image is None) == (self.url is None):
            raise PydanticCustomError("one_image", "Send one image: `image` or `url`")
        return self


class BatchRequest(_Body):
    """POST /v1/captions: one line of NDJSON per image, as they are done."""

    images: list[CaptionRequest] = Field(min_length=1)
    prompt: str | None = None
    """Of images that bring none."""
    model: str | None = None
    """Of images that name none."""


class Tokens(BaseModel):
    """Of the attempt that is given back."""

    prompt: int | None
    output: int | None


class Timings(BaseModel):
    """Milliseconds."""

    decode_ms: float
    generate_ms: float


class CaptionAnswer(BaseModel):
    """One image's caption, in the words of a batch pass's rows."""

    id: str
    model: str
    status: Literal["ok", "rejected", "error"]
    reason: str | None
    """Why the gate turned it down (rejected), or why there is no text (error)."""
    caption: str | None
    source: str | None
    prompt: str
    attempts: int
    finish_reason: str | None
    tokens: Tokens
    timings: Timings
    width: int
    height: int
    image_sha256: str
    image_format: str
    image_flags: str


class BatchLine(BaseModel):
    """One line of /v1/captions: an answer or an error."""

    index: int
    """Which of the images, from 0."""
    answer: CaptionAnswer | None = None
    error: dict[str, Any] | None = None


class ErrorDetail(BaseModel):
    """OpenAI's error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorAnswer(BaseModel):
    """Of every status of 400 and above."""

    error: ErrorDetail
