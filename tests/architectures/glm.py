"""GLM-4.1V, which thinks and has four end tokens."""

from pathlib import Path

from transformers import Glm4vConfig, Glm4vForConditionalGeneration

from tests.architectures.parts import CLIP_MEAN, CLIP_STD, SCALING, WIDTH, language
from tests.architectures.saving import Template, save_checkpoint
from tests.architectures.vocabulary import train_words

TEXT = """[gMASK]<sop>
{%- for message in messages %}
{%- if message.role == 'user' %}<|user|>
{% if message.content is string %}{{ message.content }}
{%- else %}
{%- for part in message.content %}
{%- if part.type == 'image' %}<|begin_of_image|><|image|><|end_of_image|>
{%- elif part.type == 'text' %}{{ part.text }}
{%- endif %}
{%- endfor %}
{%- endif %}
{%- else %}<|{{ message.role }}|>
{{ message.content }}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}<|assistant|>
<think>{% endif %}"""


def build_glm4v(folder: Path) -> None:
    """zai-org/GLM-4.1V-9B-Thinking."""
    special = (
        "<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>",
        "<|assistant|>", "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>",
        "<|begin_of_video|>", "<|end_of_video|>", "<|image|>", "<|video|>",
    )  # fmt: skip
    plain = ("<think>", "</think>", "<answer>", "</answer>")
    words = train_words(special, eos="<|endoftext|>", pad="<|endoftext|>", plain=plain)
    ends = [words[text] for text in ("<|endoftext|>", "<|user|>", "<|observation|>", "</answer>")]
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": [4, 2, 2],
            "partial_rotary_factor": 0.5}  # fmt: skip
    config = Glm4vConfig(
        vision_config={"depth": 2, "hidden_size": 32, "intermediate_size": 64, "num_heads": 1,
                       "out_hidden_size": WIDTH},
        text_config=language("glm4v_text", words, ends, rope_parameters=rope),
        image_token_id=words["<|image|>"], video_token_id=words["<|video|>"],
        image_start_token_id=words["<|begin_of_image|>"],
        image_end_token_id=words["<|end_of_image|>"],
        video_start_token_id=words["<|begin_of_video|>"],
        video_end_token_id=words["<|end_of_video|>"], dtype="float32", tie_word_embeddings=False,
    )  # fmt: skip
    images = SCALING | {
        "image_processor_type": "Glm4vImageProcessor",
        "processor_class": "Glm4vProcessor",
        "size": {"shortest_edge": 12544, "longest_edge": 9633792},
        "patch_size": 14,
        "temporal_patch_size": 2,
        "merge_size": 2,
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
    }
    videos = images | {
        "video_processor_type": "Glm4vVideoProcessor",
        "size": {"shortest_edge": 12544, "longest_edge": 47040000},
    }
    del videos["image_processor_type"]
    save_checkpoint(
        folder, Glm4vForConditionalGeneration(config), words, Template(TEXT, "jinja"),
        likely="<|user|>",
        generation={"eos_token_id": ends, "pad_token_id": ends[0], "do_sample": True, "top_k": 2,
                    "top_p": 0.6, "temperature": 0.8},
        files={"preprocessor_config.json": images, "video_preprocessor_config.json": videos},
    )  # fmt: skip
