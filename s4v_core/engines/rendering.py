"""Prompt text -> token ids and back, the same for every engine that runs a checkpoint itself."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from transformers import AutoConfig, AutoProcessor

from s4v_core import chat
from s4v_core.engines.requests import Request
from s4v_core.errors import ConfigError

OWN_TEMPLATE = "model"
"""Template name that stands for the checkpoint's own chat template."""


_NO_PIXELS = np.zeros((0, 0, 3), np.uint8)


class PromptRenderer:
    """The processor of one checkpoint, and the template that its captions are asked with.

    Attributes:
        processor: The checkpoint's.
        longest: Tokens that the model has positions for.
        kv_values: Numbers that its key-value cache holds per token.
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

    def rendered(self, prompt: str) -> str:
        """The text that asks `prompt` about one image."""
        if self._template != OWN_TEMPLATE:
            return chat.find_template(self._template).render(prompt)
        content = [{"type": "image"}, {"type": "text", "text": prompt}]
        messages = [{"role": "user", "content": content}]
        text: str = self.processor.apply_chat_template(messages, add_generation_prompt=True)
        return text

    def token_ids(self, request: Request) -> list[int]:
        """Ids with one placeholder per image and exactly one BOS, as vLLM expands them.

        Raises:
            ConfigError: The checkpoint's own template takes an image, and no conversation; or the
                prompt brings image tokens that it cannot tell from the image's.
        """
        image = getattr(self.processor, "image_token_id", None)
        if request.raw:
            return chat.encode([chat.Piece(request.prompt)], self._tokenizer, image)[0]
        if self._template != OWN_TEMPLATE:
            turns = [*request.earlier, (request.prompt, None)]
            image_turn = None if request.pixels is None else request.image_turn
            pieces = chat.find_template(self._template).build_pieces(
                turns, image_turn, request.system
            )
            return chat.encode(pieces, self._tokenizer, image)[0]
        if not request.is_caption:
            raise ConfigError("template: found model, which is for captions; choose vicuna_v1")
        text = self.rendered(request.prompt)
        bos = self._tokenizer.bos_token
        has_bos = bool(bos) and text.startswith(bos)  # a checkpoint's own template writes it
        ids: list[int] = self._tokenizer(text, add_special_tokens=not has_bos).input_ids
        if image is not None and ids.count(image) != 1:
            raise ConfigError(
                f"prompt: found {ids.count(image)} image tokens, allowed 1: {request.prompt!r}"
            )
        return ids

    def caption_ids(self, prompt: str) -> list[int]:
        """`token_ids` of one question about one image."""
        return self.token_ids(Request("", "", _NO_PIXELS, prompt))

    def text(self, ids: Sequence[int]) -> str:
        """The caption that generated ids spell."""
        spelled: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return spelled.strip()

    def batch(self, prompts: Sequence[str], images: Sequence[Any]) -> Any:
        """Tensors for transformers: ids of shape (images, tokens), padded on the left."""
        texts = [self.rendered(prompt) for prompt in prompts]
        bos = self._tokenizer.bos_token
        has_bos = bool(bos) and texts[0].startswith(bos)
        return self.processor(
            text=texts,
            images=list(images),
            return_tensors="pt",
            padding=True,
            padding_side="left",
            add_special_tokens=not has_bos,
        )
