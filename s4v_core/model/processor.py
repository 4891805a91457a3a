"""The processor of a LLaVA-1.5 checkpoint, with the settings of the original preprocessing."""

from typing import Any

from transformers import CLIPImageProcessor, LlavaProcessor
from transformers.models.llava.image_processing_llava import LlavaImageProcessor

from s4v_core import chat

CHAT_TEMPLATE = (
    "{{ bos_token }}" + chat.VICUNA_V1.system + "{% for message in messages %}"
    "{% if message['role'] == 'user' %}USER: "
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] if part['type'] == 'image' %}<image>\n{% endfor %}"
    "{% for part in message['content'] if part['type'] == 'text' %}{{ part['text'] }}{% endfor %}"
    "{% endif %} {% else %}ASSISTANT: {{ message['content'] }}</s>{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
"""The Vicuna v1 template with the image first. It writes BOS itself, as chat requests add none."""


def build_processor(
    tokenizer: Any, image_px: int, patch_px: int, pad: bool, keeps_class_token: bool = False
) -> LlavaProcessor:
    """Build the processor of a model that takes square images with sides of `image_px`.

    Args:
        patch_px: Side of a vision patch in pixels.
        pad: Pad images to a square (the paper's SFT and demo); otherwise crop the centre (its
            pretraining).
        keeps_class_token: The language model sees the class token, too (LLaVA's `cls_patch`).
    """
    size = {"shortest_edge": image_px}
    crop = {"height": image_px, "width": image_px}
    images = (
        LlavaImageProcessor(size=size, crop_size=crop, do_pad=True)
        if pad
        else CLIPImageProcessor(size=size, crop_size=crop)
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=patch_px,
        vision_feature_select_strategy="full" if keeps_class_token else "default",
        # The class token is counted here; with the strategy "default" the model drops it.
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
    )
