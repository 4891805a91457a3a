"""Bodies of requests in OpenAI's form. Fields beyond these are let through to `fields.py`, which
ignores or refuses them by name."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from serve.api.fields import refuse_lone_surrogates, refuse_unsupported


class OpenBody(BaseModel):
    """An object that clients may send with more fields than are known here."""

    model_config = ConfigDict(extra="allow", strict=True, use_attribute_docstrings=True)


class RequestBody(OpenBody):
    """The whole body of a request."""

    @model_validator(mode="before")
    @classmethod
    def _refuse_bad_unicode(cls, body: Any) -> Any:
        refuse_lone_surrogates(body)
        return body

    @model_validator(mode="after")
    def _refuse_unsupported(self) -> Self:
        refuse_unsupported(self.model_extra)
        return self


def _read_integer(value: Any) -> Any:
    """Turn a float such as 1.0 into an integer: JSON does not distinguish the two."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _name_kind(value: Any) -> str:
    """Name the alternative that a JSON value belongs to: its own type, or the `type` in it."""
    if isinstance(value, dict):
        return f"({value.get('type')})"
    if isinstance(value, BaseModel):
        return f"({getattr(value, 'type', 'dict')})"
    return f"({type(value).__name__})"


def choose_by_type(message: str) -> Discriminator:
    """Choose an alternative by the `type` inside it; the message refuses every other type."""
    return Discriminator(_name_kind, "bad_kind", message)


def _name_python_type(value: Any) -> str:
    return "(dict)" if isinstance(value, dict | BaseModel) else f"({type(value).__name__})"


def choose_by_python_type(message: str) -> Discriminator:
    """Choose an alternative by what it is in JSON; the message refuses everything else."""
    return Discriminator(_name_python_type, "bad_kind", message)


Count = Annotated[int, Field(ge=1, lt=2**31), BeforeValidator(_read_integer)]
Seed = Annotated[int, BeforeValidator(_read_integer)]
"""Without bounds: documents write such large ones as floats, which readers round."""


class ImageUrl(OpenBody):
    """The address or the content of an image."""

    url: str
    """A data: URL with base64 content or, if the operator allows it, an https URL."""
    detail: str | None = None
    """Accepted and ignored: the model sees every image at the size that it was made for."""


UrlOrObject = Annotated[
    Annotated[ImageUrl, Tag("(dict)")] | Annotated[str, Tag("(str)")],
    choose_by_python_type("Send an object with `url`, or the URL itself"),
]


class TextPart(OpenBody):
    """Text in a message."""

    type: Literal["text"]
    text: str


class ImagePart(OpenBody):
    """An image in a message of the user."""

    type: Literal["image_url"]
    image_url: UrlOrObject
    """The image, as OpenAI's object or as its URL alone."""


class RefusalPart(OpenBody):
    """The words of a refusal that an assistant gave before."""

    type: Literal["refusal"]
    refusal: str


Part = Annotated[
    Annotated[TextPart, Tag("(text)")]
    | Annotated[ImagePart, Tag("(image_url)")]
    | Annotated[RefusalPart, Tag("(refusal)")],
    choose_by_type("A part is of type text or image_url; video, audio and files are not taken"),
]

Content = Annotated[
    Annotated[str, Tag("(str)")] | Annotated[list[Part], Tag("(list)")],
    choose_by_python_type("Send a text, or a list of parts of type text and image_url"),
]


def _name_speaker(value: Any) -> str:
    role = value.get("role") if isinstance(value, dict) else getattr(value, "role", None)
    if role in ("system", "developer", "user"):
        return "(asking)"
    return "(assistant)" if role == "assistant" else "(unknown)"


class AskingMessage(OpenBody):
    """A message of the user, or an instruction."""

    role: Literal["system", "developer", "user"]
    content: Content
    """A text, or a list of parts. Images stand in messages of the user only."""
    name: str | None = None
    """Accepted and ignored."""


class AnsweringMessage(OpenBody):
    """An earlier answer of the model, as it was sent."""

    role: Literal["assistant"]
    content: Content | None = None
    """A text, a list of parts, or null."""
    refusal: str | None = None
    """Taken as the text of a message without one."""


Message = Annotated[
    Annotated[AskingMessage, Tag("(asking)")] | Annotated[AnsweringMessage, Tag("(assistant)")],
    Discriminator(
        _name_speaker,
        "bad_role",
        "The role of a message is system, developer, user or assistant; none is a tool's",
    ),
]


class StreamOptions(OpenBody):
    """Options of a streamed answer."""

    include_usage: bool | None = None
    """Send one more chunk at the end, with the token counts."""


class TextForm(OpenBody):
    """Any text."""

    type: Literal["text"]


class ObjectForm(OpenBody):
    """Any JSON object."""

    type: Literal["json_object"]


class NamedSchema(OpenBody):
    """A JSON schema."""

    name: str | None = None
    """Accepted and ignored, like its description."""
    schema_: dict[str, Any] | None = Field(None, alias="schema")
    """The JSON schema that the answer follows. Unset: any JSON object."""
    strict: bool | None = None
    """Accepted and ignored: the answer always follows the schema."""


class SchemaForm(OpenBody):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    json_schema: NamedSchema


Form = Annotated[
    Annotated[TextForm, Tag("(text)")]
    | Annotated[ObjectForm, Tag("(json_object)")]
    | Annotated[SchemaForm, Tag("(json_schema)")],
    choose_by_type("An answer has the type text, json_object or json_schema"),
]

StopText = Annotated[str, Field(max_length=256)]
Stop = Annotated[
    Annotated[StopText, Tag("(str)")]
    | Annotated[list[StopText], Field(max_length=4), Tag("(list)")],
    choose_by_python_type("Send a text, or a list of at most 4 texts"),
]


class Drawn(RequestBody):
    """The part of a request that says how its answer is drawn."""

    model: str
    """Name of the model."""
    temperature: float | None = Field(None, ge=0.0, le=2.0)
    """Sampling temperature. Unset: the model's own setting."""
    top_p: float | None = Field(None, ge=0.0, le=1.0)
    """Share of probability that tokens are drawn from; 0 takes the most likely token. Unset: the
    model's own setting."""
    top_k: Annotated[int, Field(ge=-1, lt=2**31), BeforeValidator(_read_integer)] | None = None
    """Number of most likely tokens that are drawn from; 0 and -1 draw from all."""
    min_p: float | None = Field(None, ge=0.0, le=1.0)
    """Draw only tokens with this share of the most likely token's probability."""
    presence_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    """Above 0, tokens that the answer already has become less likely."""
    frequency_penalty: float | None = Field(None, ge=-2.0, le=2.0)
    """Above 0, tokens become less likely each time that the answer has them."""
    repetition_penalty: float | None = Field(None, gt=0.0, le=10.0)
    """Above 1, tokens that occurred become less likely. Unset: the model's own setting."""
    logit_bias: dict[str, Annotated[float, Field(ge=-100.0, le=100.0)]] | None = None
    """Token ids, and what is added to their logits. At most 300."""
    seed: Seed | None = None
    """Random seed: the same seed draws the same answer. Unset: a new seed for each request."""
    stop: Stop | None = None
    """Texts before which the answer ends."""
    min_tokens: Annotated[int, Field(ge=0, lt=2**31), BeforeValidator(_read_integer)] | None = None
    """Minimum number of tokens in the answer."""
    ignore_eos: bool | None = None
    """Go on until max_tokens, whatever the model says; for benchmarks."""
    n: Annotated[Literal[1], BeforeValidator(_read_integer)] | None = None
    """Number of answers. Only 1 is supported; send the request again for another answer."""
    stream: bool | None = None
    """Send the answer in pieces, as server-sent events."""
    user: str | None = None
    """Accepted and ignored."""


class Sampled(Drawn):
    """The fields that conversations and completions have in common."""

    max_tokens: Count | None = None
    """Maximum number of tokens in the answer. Unset: the model's own setting."""
    stream_options: StreamOptions | None = None
    """Options of a streamed answer."""
    response_format: Form | None = None
    """Form that the answer is bound to. Unset: any text."""


class ChatRequest(Sampled):
    """Body of POST /v1/chat/completions."""

    messages: list[Message] = Field(min_length=1)
    """Messages in order. Messages of one role that follow each other are joined."""
    max_completion_tokens: Count | None = None
    """Newer name of max_tokens; it takes precedence."""


Prompt = Annotated[
    Annotated[str, Field(min_length=1), Tag("(str)")]
    | Annotated[
        list[Annotated[str, Field(min_length=1)]],
        Field(min_length=1, max_length=32),
        Tag("(list)"),
    ],
    choose_by_python_type("Send a text, or a list of texts"),
]


class CompletionRequest(Sampled):
    """Body of POST /v1/completions."""

    prompt: Prompt
    """Text to continue, or a list of at most 32 texts. It is passed to the model without a
    conversation template."""


class TokenizeRequest(RequestBody):
    """Body of POST /tokenize, as vLLM takes it: a text or messages."""

    model: str | None = None
    """Name of the model. Unset: the first model."""
    prompt: str | None = None
    """Text to tokenize."""
    messages: list[Message] | None = Field(None, min_length=1)
    """Messages to tokenize with the model's template."""
