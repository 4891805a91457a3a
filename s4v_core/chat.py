"""Conversation templates as pure text. Knows nothing of tokenizers."""

from collections.abc import Sequence
from dataclasses import dataclass

from s4v_core.errors import ConfigError

IMAGE = "<image>"
"""Stands for the image in a text; exactly one per image."""


@dataclass(frozen=True, slots=True)
class Template:
    """How turns become one text.

    Attributes:
        system: Said first.
        user, assistant: Names in front of the turns.
        turn_end: Behind every user turn.
        answer_end: Behind every finished assistant turn.
    """

    name: str
    system: str
    user: str
    assistant: str
    turn_end: str
    answer_end: str

    def render(self, question: str, answers: Sequence[tuple[str, str]] = ()) -> str:
        """The text that asks `question` about one image, after earlier (question, answer) turns.

        The image stands before the first question, as in training (preprocess_multimodal).

        Raises:
            ConfigError: A question holds the image mark.
        """
        for text in (question, *(earlier for earlier, _ in answers)):
            if IMAGE in text:
                raise ConfigError(
                    f"prompt: found {IMAGE} in {text!r}; the image is put in front of it"
                )
        questions = [*(earlier for earlier, _ in answers), question]
        questions[0] = f"{IMAGE}\n{questions[0]}"
        text = self.system
        for asked, (_, answer) in zip(questions, answers, strict=False):
            text += f"{self.user}{asked}{self.turn_end}{self.assistant} {answer}{self.answer_end}"
        return text + f"{self.user}{questions[-1]}{self.turn_end}{self.assistant}"


VICUNA_V1 = Template(
    name="vicuna_v1",
    system=(
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions. "
    ),
    user="USER: ",
    assistant="ASSISTANT:",
    turn_end=" ",
    answer_end="</s>",
)
"""share4v/conversation.py `vicuna_v1`: SFT, demo, evaluation and our captioner."""

TEMPLATES = {template.name: template for template in (VICUNA_V1,)}


def template(name: str) -> Template:
    """The template of that name.

    Raises:
        ConfigError: There is none.
    """
    if name not in TEMPLATES:
        raise ConfigError(f"template: found {name!r}, allowed {', '.join(sorted(TEMPLATES))}")
    return TEMPLATES[name]
