"""A checkpoint's own chat template: where it lies, which form of messages it takes, and which of
its switches turn thinking off.

vLLM has rules of its own for all of this; engine vllm takes them (`vllm_chat.py`), so that its
prompts are those of `vllm.LLM.chat`. The rules here are for engine transformers and for the
preflight, which also run where vLLM is not installed.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import jinja2.meta
import jinja2.nodes
import jinja2.sandbox
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser

from s4v_core.engines.requests import Request
from s4v_core.errors import ConfigError

Message = dict[str, Any]

_SWITCHES = ("enable_thinking", "thinking")
"""Variables by which templates let a request turn thinking off: Qwen3, GLM-4.5V and InternVL3.5
call it enable_thinking; DeepSeek-V3.1 and Granite call it thinking."""

_PLAIN = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
_UNTRAINED_CHAT = {"paligemma": _PLAIN, "blip-2": "Question: " + _PLAIN + " Answer:"}
"""Templates, by model type, for models that were never trained on chats and bring none; as vLLM has
them."""

_MARKS_OF_TYPES = {
    "llava": "<image>",  # whatever the processor's own token is: JoyCaption's is another
    "qwen2_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen2_5_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl": "<|vision_start|><|image_pad|><|vision_end|>",
    "qwen3_vl_moe": "<|vision_start|><|image_pad|><|vision_end|>",
    "glm4v": "<|begin_of_image|><|image|><|end_of_image|>",
    "glm4v_moe": "<|begin_of_image|><|image|><|end_of_image|>",
}
"""Text that represents an image, by model type, where vLLM takes another one than the processor's
image token."""

_PROBE = "Question-for-the-template"


@dataclass(frozen=True)
class ChatFormat:
    """How requests become the messages of one chat template.

    Attributes:
        template: The template's text (Jinja).
        make_messages: A request's messages in the form that the template takes.
        switches: Variables given to the template.
    """

    template: str
    make_messages: Callable[[Request], list[Message]]
    switches: Mapping[str, Any] = field(default_factory=dict)


def find_chat_format(
    processor: Any, model_type: str, render: Callable[[str, list[Message]], str]
) -> ChatFormat:
    """The chat format of a checkpoint, by rules that need no vLLM.

    Args:
        processor: The checkpoint's processor.
        render: Renders messages with a template; raises ConfigError if it fails.

    Raises:
        ConfigError: The checkpoint has no chat template, or one that takes no images as far as can
            be told.
    """
    template = find_template(processor, model_type)
    if template is None:
        raise ConfigError(
            f"template: a checkpoint of model_type {model_type} has no chat template; give "
            "--template vicuna_v1 if it was trained with that one"
        )
    switches = find_switches(template)
    if _takes_parts(template, render):
        return ChatFormat(template, build_messages, switches)
    mark = _MARKS_OF_TYPES.get(model_type) or getattr(processor, "image_token", None)
    if not mark:
        raise ConfigError(
            f"template: the chat template takes texts, and a processor of model_type {model_type} "
            "does not say by which text an image is represented; use engine vllm"
        )
    return ChatFormat(
        template, lambda request: _join_parts(build_messages(request), mark), switches
    )


def find_template(processor: Any, model_type: str) -> str | None:
    """The text of a checkpoint's chat template: its processor's, else its tokenizer's, else the one
    that its model type is known to take. Of named templates it is the one called default."""
    for holder in (processor, getattr(processor, "tokenizer", None)):
        found = getattr(holder, "chat_template", None)
        if isinstance(found, Mapping):
            found = found.get("default")
        if found:
            return str(found)
    return _UNTRAINED_CHAT.get(model_type)


def find_switches(template: str) -> dict[str, Any]:
    """Variables that turn thinking off, of those that a template reads."""
    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
        extensions=[_Generation, loopcontrols]
    )
    try:
        read = jinja2.meta.find_undeclared_variables(environment.parse(template))
    except jinja2.TemplateError:
        return {}  # rendering will say what is wrong with it
    return {name: False for name in _SWITCHES if name in read}


def build_messages(request: Request) -> list[Message]:
    """A request as messages whose contents are lists of parts."""
    messages: list[Message] = []
    if request.system:
        messages.append({"role": "system", "content": [_text(request.system)]})
    for number, (question, answer) in enumerate([*request.earlier, (request.prompt, None)]):
        images = request.turns_of_images.count(number)
        content = [*({"type": "image"} for _ in range(images)), _text(question)]
        messages.append({"role": "user", "content": content})
        if answer is not None:
            messages.append({"role": "assistant", "content": [_text(answer)]})
    return messages


def _text(text: str) -> Message:
    return {"type": "text", "text": text}


def _join_parts(messages: list[Message], mark: str) -> list[Message]:
    """Messages whose contents are texts: images first, one line for each part, as vLLM joins
    them."""
    return [
        message | {"content": "\n".join(part.get("text", mark) for part in message["content"])}
        for message in messages
    ]


def _takes_parts(template: str, render: Callable[[str, list[Message]], str]) -> bool:
    """Whether a template takes contents as lists of parts; else it takes texts."""
    probe = [{"role": "user", "content": [{"type": "image"}, _text(_PROBE)]}]
    try:
        rendered = render(template, probe)
    except ConfigError:
        return False
    return _PROBE in rendered and "'type'" not in rendered and '"type"' not in rendered


class _Generation(Extension):
    """The tag {% generation %}, which marks what is learnt in training; here only to be parsed."""

    tags = {"generation"}  # noqa: RUF012 - so declared by Jinja

    def parse(self, parser: Parser) -> list[jinja2.nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
