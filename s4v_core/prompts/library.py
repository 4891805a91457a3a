"""Prompts by name, for `--prompt-name` and for fields; `docs/prompts.md` lists them."""

from dataclasses import dataclass

from s4v_core.errors import ConfigError
from s4v_core.prompts.joycaption import JOYCAPTION, JOYCAPTION_SOURCE

CAPTION = "Analyze the image in a comprehensive and detailed manner."
"""The one instruction of the Share-Captioner (ShareGPT4V, tools/share-cap_batch_infer.py)."""


@dataclass(frozen=True, slots=True)
class NamedPrompt:
    """A prompt of the library.

    Attributes:
        text: What the model is asked; `{column}` is replaced by a value of the image.
        source: Where the text was published, or that it is this project's own.
        use: What it is for, in a few words.
    """

    name: str
    text: str
    source: str
    use: str


_SHAREGPT4V = "ShareGPT4V, tools/share-cap_batch_infer.py (arXiv 2311.12793)"
_LLAVA = "Visual Instruction Tuning, appendix (arXiv 2304.08485): instructions of LLaVA's data"
_OWN = "this project"

_OTHERS = (
    NamedPrompt("paper", CAPTION, _SHAREGPT4V, "the Share-Captioner's one instruction; default"),
    NamedPrompt(
        "detailed",
        "Provide a detailed description of the given image",
        _LLAVA,
        "a long caption, from models that were tuned like LLaVA",
    ),
    NamedPrompt(
        "short",
        "Provide a brief description of the given image.",
        _LLAVA,
        "one sentence; for the gate, see `min_words`",
    ),
    NamedPrompt(
        "tags",
        "List what is visible in this image as tags: short noun phrases in lower case, the most "
        "important first, separated by commas. Write nothing else.",
        _OWN,
        "a comma-separated list of tags",
    ),
    NamedPrompt(
        "alt-text",
        'The text that came with this image is: "{alt}". Describe what is visible in the image in '
        "detail. Use names and facts of the text where they fit what you see, and leave out what "
        "the image does not show.",
        _OWN,
        "a caption that knows the image's alt text (column or sidecar field `alt`)",
    ),
    NamedPrompt(
        "ocr",
        "Describe this image in detail. Quote every text that can be read in it exactly as it is "
        "written, in its own language, from top to bottom and from left to right, and say where "
        "each text stands. Mark text that you cannot read as [illegible].",
        _OWN,
        "documents, signs, screenshots and charts",
    ),
)

LIBRARY: dict[str, NamedPrompt] = {prompt.name: prompt for prompt in _OTHERS} | {
    name: NamedPrompt(name, text, JOYCAPTION_SOURCE, use)
    for name, (text, use) in JOYCAPTION.items()
}


def find_prompt(name: str) -> NamedPrompt:
    """The prompt of the library with this name.

    Raises:
        ConfigError: There is none; the sentence lists those that there are.
    """
    if name not in LIBRARY:
        raise ConfigError(f"prompt name: found {name!r}, allowed {', '.join(LIBRARY)}")
    return LIBRARY[name]
