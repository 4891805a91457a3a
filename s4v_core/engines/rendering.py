"""Requests -> prompt texts and token ids, the same for every engine that runs a checkpoint
itself."""

import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoProcessor

from s4v_core import chat
from s4v_core.engines.requests import Request
from s4v_core.engines.template_guard import GuardedTemplate
from s4v_core.errors import ConfigError

_OWN_TEMPLATE = "model"
"""Template name that means the checkpoint's own chat template."""

_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


class PromptRenderer:
    """The processor of one checkpoint, and the template that its requests are rendered with.

    Attributes:
        processor: The checkpoint's processor.
        longest: Tokens that the model has positions for.
        kv_values: Numbers that the model's key-value cache holds per token.
    """

    def __init__(self, model: str, template: str) -> None:
        config = AutoConfig.from_pretrained(model, trust_remote_code=False).get_text_config()
        self.processor = AutoProcessor.from_pretrained(model, trust_remote_code=False)
        self.longest = int(config.max_position_embeddings)
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None)
        width = width or config.hidden_size // config.num_attention_heads
        self.kv_values = 2 * config.num_hidden_layers * heads * width
        self._tokenizer = self.processor.tokenizer
        self._template = template
        self._own = GuardedTemplate(model) if template == _OWN_TEMPLATE else None
        self._render_own = lru_cache(maxsize=1024)(self._render_guarded)

    def render(self, request: Request) -> str:
        """The text of a request, with one image mark per image.

        Raises:
            ConfigError: A question spells the image mark itself, or the checkpoint's own template
                fails or exceeds a limit.
        """
        if request.is_raw:
            return request.prompt
        if self._template != _OWN_TEMPLATE:
            for question in (request.prompt, *(asked for asked, _ in request.earlier)):
                chat.refuse_image_mark(question)
            return "".join(piece.text for piece in self._cut_pieces(request))
        return self._render_own(json.dumps(_build_messages(request))) + request.prefill

    def token_ids(self, request: Request) -> list[int]:
        """Ids with one placeholder per image and exactly one BOS, as vLLM expands them.

        Raises:
            ConfigError: The prompt brings image tokens that the checkpoint's own template cannot
                tell from the images' own.
        """
        image = getattr(self.processor, "image_token_id", None)
        if request.is_raw:
            return chat.encode([chat.Piece(request.prompt)], self._tokenizer, image)[0]
        if self._template != _OWN_TEMPLATE:
            return chat.encode(self._cut_pieces(request), self._tokenizer, image)[0]
        text = self.render(request)
        ids: list[int] = self._tokenizer(text, add_special_tokens=not self._has_bos(text)).input_ids
        if image is not None and ids.count(image) != len(request.images):
            raise ConfigError(
                f"prompt: found {ids.count(image)} image tokens, allowed {len(request.images)}: "
                f"{request.prompt!r}"
            )
        return ids

    def question_ids(self, prompt: str) -> list[int]:
        """`token_ids` of one question about one image."""
        return self.token_ids(Request("", "", (_NO_PIXELS,), prompt))

    def text(self, ids: Sequence[int]) -> str:
        """The answer that generated ids spell."""
        spelled: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return spelled.strip()

    def answer(self, ids: Sequence[int], prefill: str = "") -> str:
        """The answer that generated ids continue, which begins with the prefill."""
        if not prefill:
            return self.text(ids)
        # Decoded together: alone, the first token would lose the space before its word.
        begun: list[int] = self._tokenizer(prefill, add_special_tokens=False).input_ids
        start = self._tokenizer.decode(begun, skip_special_tokens=True)
        whole: str = self._tokenizer.decode([*begun, *ids], skip_special_tokens=True)
        return (prefill + whole[len(start) :]).rstrip()

    def batch(self, requests: Sequence[Request]) -> Any:
        """Tensors for transformers: ids of shape (requests, tokens), padded on the left.

        Raises:
            ConfigError, ValueError: The template or the processor cannot take one of the requests.
        """
        texts = [self.render(request) for request in requests]
        images = [request.pictures for request in requests]
        return self.processor(
            text=texts,
            images=images if any(images) else None,
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=not self._has_bos(texts[0]),
        )

    def close(self) -> None:
        if self._own:
            self._own.close()

    def _render_guarded(self, messages: str) -> str:
        """Args:
        messages: As JSON, so that equal conversations are rendered once.
        """
        assert self._own, "only the checkpoint's own template is rendered like this"
        return self._own.render(json.loads(messages))

    def _cut_pieces(self, request: Request) -> list[chat.Piece]:
        turns = [*request.earlier, (request.prompt, None)]
        template = chat.find_template(self._template)
        pieces = template.build_pieces(turns, request.turns_of_images, request.system)
        begun = [chat.Piece(f"{template.answer_lead}{request.prefill}")] if request.prefill else []
        return [*pieces, *begun]

    def _has_bos(self, text: str) -> bool:
        """Whether the text brings its BOS: a checkpoint's own template may write it."""
        bos = self._tokenizer.bos_token
        return bool(bos) and text.startswith(bos)


def _build_messages(request: Request) -> list[dict[str, Any]]:
    """A request in the form that chat templates of checkpoints take."""
    messages: list[dict[str, Any]] = []
    if request.system:
        content = [{"type": "text", "text": request.system}]
        messages.append({"role": "system", "content": content})
    for number, (question, answer) in enumerate([*request.earlier, (request.prompt, None)]):
        images = request.turns_of_images.count(number)
        content = [{"type": "image"} for _ in range(images)]
        content.append({"type": "text", "text": question})
        messages.append({"role": "user", "content": content})
        if answer is not None:
            messages.append({"role": "assistant", "content": [{"type": "text", "text": answer}]})
    return messages
