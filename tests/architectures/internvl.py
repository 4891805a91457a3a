"""InternVL3 in the layout of transformers."""

from pathlib import Path

from transformers import InternVLConfig, InternVLForConditionalGeneration

from tests.architectures.parts import IMAGENET_MEAN, IMAGENET_STD, SCALING, language, square
from tests.architectures.saving import Template, save_checkpoint
from tests.architectures.vocabulary import train_words

TEXT = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' }}"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}{% if part['type'] == 'image' %}"
    "{{ '<IMG_CONTEXT>\n' }}{% elif part['type'] == 'text' %}{{ part['text'] }}{% endif %}"
    "{% endfor %}{% endif %}{{ '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def build_internvl3(folder: Path) -> None:
    """OpenGVLab/InternVL3-8B-hf."""
    named = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *named.values())
    words = train_words(special, eos="<|im_end|>", pad="<|endoftext|>", named=named)
    config = InternVLConfig(
        vision_config={
            "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "attention_bias": True, "use_mean_pooling": True,
            "image_size": [448, 448], "patch_size": [14, 14],
        },
        text_config=language("qwen2", words, words["<|im_end|>"]),
        image_token_id=words["<IMG_CONTEXT>"], image_seq_length=256, downsample_ratio=0.5,
        tie_word_embeddings=False, dtype="float32",
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "GotOcr2ImageProcessorFast",
        "processor_class": "InternVLProcessor",
        "size": square(448),
        "crop_to_patches": True,
        "min_patches": 1,
        "max_patches": 12,
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    videos = SCALING | {
        "video_processor_type": "InternVLVideoProcessor",
        "processor_class": "InternVLProcessor",
        "size": square(384),
        "image_mean": IMAGENET_MEAN,
        "image_std": IMAGENET_STD,
    }
    save_checkpoint(
        folder, InternVLForConditionalGeneration(config), words, Template(TEXT, "jinja"),
        likely="<|im_end|>",
        generation={"eos_token_id": words["<|im_end|>"], "pad_token_id": words["<|endoftext|>"]},
        files={
            "preprocessor_config.json": images,
            "video_preprocessor_config.json": videos,
            "processor_config.json": {
                "processor_class": "InternVLProcessor", "image_seq_length": 256,
            },
        },
    )  # fmt: skip
