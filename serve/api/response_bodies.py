"""Body of a request to /v1/responses, OpenAI's newer form of a conversation."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from serve.api.bodies import (
    Count,
    Drawn,
    ObjectForm,
    OpenBody,
    RefusalPart,
    TextForm,
    choose_by_python_type,
    choose_by_type,
)

_ITEMS = (
    "An item is a message; nothing is stored here, so send messages in place of item_reference "
    "(store: false), and no calls of tools"
)


class InputText(OpenBody):
    """Text in a message of the user, or in an instruction."""

    type: Literal["input_text"]
    text: str


class InputImage(OpenBody):
    """An image in a message of the user."""

    type: Literal["input_image"]
    image_url: str
    """A data: URL with base64 content or, if the operator allows it, an https URL. There are no
    stored files."""
    detail: str | None = None
    """Accepted and ignored: the model sees every image at the size that it was made for."""


class OutputText(OpenBody):
    """Text of an earlier answer."""

    type: Literal["output_text"]
    text: str


InputPart = Annotated[
    Annotated[InputText, Tag("(input_text)")]
    | Annotated[InputImage, Tag("(input_image)")]
    | Annotated[OutputText, Tag("(output_text)")]
    | Annotated[RefusalPart, Tag("(refusal)")],
    choose_by_type(
        "A part is of type input_text, input_image or output_text; files and audio are not taken"
    ),
]


class InputMessage(OpenBody):
    """A message of the conversation."""

    type: Literal["message"] = "message"
    role: Literal["system", "developer", "user", "assistant"]
    content: Annotated[
        Annotated[str, Tag("(str)")] | Annotated[list[InputPart], Tag("(list)")],
        choose_by_python_type("Send a text, or a list of parts"),
    ]
    """A text, or a list of parts. Images stand in messages of the user only."""


class ReasoningItem(OpenBody):
    """Thoughts behind an earlier answer. Accepted and ignored."""

    type: Literal["reasoning"]


def _name_item(value: Any) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    is_message = kind == "message" or (kind is None and isinstance(value, dict))
    return "(message)" if is_message else f"({kind})"


Item = Annotated[
    Annotated[InputMessage, Tag("(message)")] | Annotated[ReasoningItem, Tag("(reasoning)")],
    Discriminator(_name_item, "bad_kind", _ITEMS),
]


class FlatSchemaForm(OpenBody):
    """JSON that follows a schema."""

    type: Literal["json_schema"]
    name: str | None = None
    """Accepted and ignored, like its description."""
    schema_: dict[str, Any] = Field(alias="schema")
    """The JSON schema that the answer follows."""
    strict: bool | None = None
    """Accepted and ignored: the answer always follows the schema."""


class TextOptions(OpenBody):
    """Options of the answer's text."""

    format: (
        Annotated[
            Annotated[TextForm, Tag("(text)")]
            | Annotated[ObjectForm, Tag("(json_object)")]
            | Annotated[FlatSchemaForm, Tag("(json_schema)")],
            choose_by_type("An answer has the format text, json_object or json_schema"),
        ]
        | None
    ) = None
    """Form that the answer is bound to. Unset: any text."""


class ResponsesRequest(Drawn):
    """Body of POST /v1/responses."""

    input: Annotated[
        Annotated[str, Tag("(str)")] | Annotated[list[Item], Field(min_length=1), Tag("(list)")],
        choose_by_python_type("Send a text, or a list of messages"),
    ]
    """A question, or the messages of a conversation. Nothing is stored, so the whole conversation
    is sent each time."""
    instructions: str | None = None
    """Text of a system message in front of the input."""
    max_output_tokens: Count | None = None
    """Maximum number of tokens in the answer. Unset: the model's own setting."""
    text: TextOptions | None = None
    """Options of the answer's text."""
    metadata: dict[str, str] | None = None
    """Accepted and repeated in the answer."""
