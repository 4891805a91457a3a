import pytest

from s4v_core import chat, prompts
from s4v_core.errors import ConfigError

SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions."
)


def test_a_caption_prompt_is_the_published_vicuna_v1_text() -> None:
    assert chat.VICUNA_V1.render(prompts.CAPTION) == (
        f"{SYSTEM} USER: <image>\n"
        "Analyze the image in a comprehensive and detailed manner. ASSISTANT:"
    )


def test_later_turns_follow_the_end_mark_without_a_space() -> None:
    text = chat.VICUNA_V1.render("And now?", [("What is it?", "A cat.")])
    assert (
        text
        == f"{SYSTEM} USER: <image>\nWhat is it? ASSISTANT: A cat.</s>USER: And now? ASSISTANT:"
    )


def test_a_question_cannot_bring_an_image_mark_of_its_own() -> None:
    with pytest.raises(ConfigError, match="<image>"):
        chat.VICUNA_V1.render("look at <image>")


def test_an_unknown_template_is_named_with_those_that_exist() -> None:
    with pytest.raises(ConfigError, match="vicuna_v1"):
        chat.find_template("chatml")
