"""The teacher's prompts: a head, a middle that fits the image's source, and a tail.

Texts of the paper are verbatim (Fig. 3 and 8). It never published the middles for landmarks,
celebrities and works of art, nor the aesthetic request: Sec. 3.2 says only what each must obtain.
Those are written here, and their labels begin with `ours.` in every row.
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from s4v_core.captioning.prompts import OTHERS, Prompt

PUBLISHED = {
    "head": "You are a powerful image captioner.",
    "general": (
        "Create detailed captions describing the contents of the given image. Include the object "
        "types and colors, counting the objects, object actions, precise object locations, texts, "
        "doublechecking relative positions between objects, etc."
    ),
    "text": (
        "Create detailed captions describing the contents of the given image. Pay more attention "
        "to the text contents and the information they convey."
    ),
    "tail.1": (
        "Instead of describing the imaginary content, only describing the content one can "
        "determine confidently from the image."
    ),
    "tail.2": "Do not describe the contents by itemizing them in list form.",
    "tail.3": "Minimize aesthetic descriptions as much as possible.",
}
"""Parts that public code quotes from the paper's figures, word for word, faults included."""

OURS = {
    "ours.landmark": (
        "If the image shows a landmark that you recognize with confidence, give its name and its "
        "geographic location, and say what it is known for."
    ),
    "ours.celebrity": (
        "If the image shows a public figure whom you recognize with confidence, give the name, and "
        "the role or the occasion in which the person appears."
    ),
    "ours.wikiart": (
        "If you recognize the work of art with confidence, give its title, its artist and the "
        "movement that it belongs to, and relate what is known about the work to what is visible."
    ),
    "ours.aesthetic": (
        "In addition, assess the aesthetic qualities of the image, such as its composition, "
        "lighting, colors, style and atmosphere."
    ),
    "ours.unnamed": (
        "Do not name or identify any real person; describe people only by what is visible."
    ),
}
"""Parts that were never published, written for this project."""

MIDDLES = {
    "coco": ("general",),
    "lcs": ("general",),
    "sam": ("general",),
    "textcaps": ("text",),
    "wikiart": ("general", "ours.wikiart"),
    "landmark": ("general", "ours.landmark"),
    "celebrity": ("general", "ours.celebrity"),
}
"""Parts between head and tail, by source. The paper adds a specialised prompt to a base prompt."""

NAMING = "ours.celebrity"
"""The part that asks for the names of real people."""

ALL_SOURCES = "*"


@dataclass(frozen=True, slots=True)
class TeacherPrompt:
    """One composed prompt.

    Attributes:
        source: The source that it is for; OTHERS for all that have none of their own.
        parts: Labels of its parts, in their order.
        weight: Its share among the prompts of the source.
    """

    source: str
    parts: tuple[str, ...]
    weight: float = 1.0

    @property
    def text(self) -> str:
        known = PUBLISHED | OURS
        return " ".join(known[part] for part in self.parts)

    @property
    def label(self) -> str:
        """The parts as rows name them."""
        return " + ".join(self.parts)

    @property
    def prompt(self) -> Prompt:
        """The prompt as captioning draws it."""
        return Prompt(self.text, self.weight, self.source)


def compose_prompts(
    aesthetic_share: float,
    unnamed: Collection[str] = (),
    others: str | None = "general",
) -> tuple[TeacherPrompt, ...]:
    """The prompts of all sources.

    Args:
        aesthetic_share: Share of each source's images that get the aesthetic request.
        unnamed: Sources whose captions must not name real people; ALL_SOURCES for all.
        others: Middle for images of any other source: general or text; None leaves them without a
            prompt.
    """
    middles = dict(MIDDLES) | ({OTHERS: (others,)} if others else {})
    found = list[TeacherPrompt]()
    for source, middle in middles.items():
        is_unnamed = source in unnamed or ALL_SOURCES in unnamed
        found += _compose(source, middle, aesthetic_share, is_unnamed)
    return tuple(found)


def label_texts(prompts: Sequence[TeacherPrompt]) -> dict[str, str]:
    """The label of each prompt's text."""
    return {prompt.text: prompt.label for prompt in prompts}


def _compose(
    source: str, middle: tuple[str, ...], aesthetic_share: float, is_unnamed: bool
) -> Iterator[TeacherPrompt]:
    if is_unnamed:
        middle = (*(part for part in middle if part != NAMING), "ours.unnamed")
    if aesthetic_share < 1:
        parts = ("head", *middle, "tail.1", "tail.2", "tail.3")
        yield TeacherPrompt(source, parts, 1 - aesthetic_share)
    if aesthetic_share > 0:
        # The third sentence of the tail contradicts the request.
        parts = ("head", *middle, "ours.aesthetic", "tail.1", "tail.2")
        yield TeacherPrompt(source, parts, aesthetic_share)
