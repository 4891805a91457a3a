"""A checkpoint's chat format as vLLM finds it: a prompt is what `vllm.LLM.chat` makes of the same
messages."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from s4v_core.engines.chat_formats import ChatFormat, Message, build_messages, find_switches
from s4v_core.engines.rendering import PromptRenderer
from s4v_core.engines.requests import Request
from s4v_core.engines.template_guard import GuardedTemplate
from s4v_core.errors import ConfigError

_ANY_IMAGE = Image.new("RGB", (8, 8))
"""Stands for a request's images while its messages are built: only their number matters."""


class VllmChat:
    """The chat rendering of one running vLLM engine.

    Attributes:
        uses_code: Whether vLLM renders this model's messages with code instead of a template, as it
            does for Mistral's own format and a few others.
    """

    def __init__(self, engine: Any) -> None:
        """Args:
        engine: vLLM's AsyncLLM.
        """
        from vllm.renderers.hf import HfRenderer

        self._renderer, self._model_config = engine.renderer, engine.model_config
        self.uses_code = not isinstance(self._renderer, HfRenderer)

    def make_renderer(self, model: str, template: str) -> PromptRenderer:
        """The renderer of an engine's prompts, but for those that vLLM renders with code.

        Raises:
            ConfigError: vLLM finds no chat template for the model.
        """
        tokenizer = self._renderer.get_tokenizer()
        return PromptRenderer(model, template, tokenizer, self._find_image_id(), self._find_format)

    async def render_with_code(self, request: Request) -> dict[str, Any]:
        """The prompt of a request that vLLM renders with code, images included."""
        from vllm.renderers.params import ChatParams
        from vllm.utils.mistral import is_mistral_tokenizer

        tokenizer = self._renderer.get_tokenizer()
        switches = {"add_generation_prompt": True, "tokenize": is_mistral_tokenizer(tokenizer)}
        messages = _show_images(request, request.pictures)
        _, prompt = await self._renderer.render_messages_async(
            messages, ChatParams(chat_template_kwargs=switches)
        )
        found = dict(prompt)
        if "prompt" in found:
            text = f"{found.pop('prompt')}{request.prefill}"
            found["prompt_token_ids"] = tokenizer.encode(text, add_special_tokens=False)
        return found

    def _find_format(self, guard: GuardedTemplate) -> ChatFormat:
        from vllm.renderers.hf import resolve_chat_template, resolve_chat_template_content_format

        tokenizer, config = self._renderer.get_tokenizer(), self._model_config
        if self.uses_code:
            return ChatFormat("", build_messages)
        template = resolve_chat_template(tokenizer, None, None, model_config=config)
        if template is None:
            raise ConfigError(
                f"template: a checkpoint of model_type {config.hf_config.model_type} has no chat "
                "template; give --template vicuna_v1 if it was trained with that one"
            )
        contents = resolve_chat_template_content_format(
            None, None, "auto", tokenizer, model_config=config
        )

        def make_messages(request: Request) -> list[Message]:
            return self._parse_messages(request, contents)

        return ChatFormat(template, make_messages, find_switches(template))

    def _parse_messages(self, request: Request, contents: Any) -> list[Message]:
        """The messages as vLLM hands them to a template: contents as parts or as texts, with the
        mark that the model's class in vLLM wants for an image."""
        from vllm.renderers.chat_utils import parse_chat_messages

        images = [_ANY_IMAGE] * len(request.images)
        shown = _show_images(request, images)
        messages, _, _ = parse_chat_messages(shown, self._model_config, contents)
        return [dict(message) for message in messages]

    def _find_image_id(self) -> int | None:
        from vllm.transformers_utils.processor import cached_processor_from_config

        try:
            processor = cached_processor_from_config(self._model_config)
        # Border to foreign code: some models have no processor in transformers, or one that does
        # not load; vLLM brings its own for them, which names no image token.
        except Exception:  # noqa: BLE001
            return None
        return getattr(processor, "image_token_id", None)


def _show_images(request: Request, images: Sequence[Image.Image]) -> Any:
    """A request as messages of vLLM's chat API, with these images in the places of its own."""
    messages, left = build_messages(request), list(images)
    for message in messages:
        message["content"] = [
            {"type": "image_pil", "image_pil": left.pop(0)} if part["type"] == "image" else part
            for part in message["content"]
        ]
    return messages
