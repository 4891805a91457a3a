"""The values that evaluation is made of: questions, answers, marks, and the Benchmark that turns
the first two into the third. Knows no single benchmark, no file layout and no model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Kind = Literal["official", "lenient"]
"""The benchmark's own rule, bug for bug, or this project's parser."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of a benchmark.

    Attributes:
        key: Identifies the question within its benchmark.
        prompt: The whole text that the model is asked, without the mark of the image.
        text: The question as the data set has it; an answer's stored prompt must contain it.
        gold: The right answer; None where it is not public.
        humans: Answers of people, where the score counts those that agree.
        options: Letter and text of each choice.
        group: Questions that only count together have one group.
        labels: Category and the like, by which scores are broken down.
        aliases: Further ids that answer files use for this question.
        row: The record of the data set, for the file that a remote scorer wants.
    """

    key: str
    prompt: str
    text: str
    image: str = ""
    gold: str | None = None
    humans: tuple[str, ...] = ()
    options: Mapping[str, str] = field(default_factory=dict)
    group: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    aliases: tuple[str, ...] = ()
    row: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Answer:
    """One record of an answers file.

    Attributes:
        key: The question's id as the file has it.
        prompt: What the model was asked, if the file says so.
        row: The whole record.
    """

    key: str
    text: str
    prompt: str = ""
    row: Mapping[str, Any] = field(default_factory=dict)

    @property
    def has_exact_key(self) -> bool:
        """Whether the key is that of the question itself, as in files of this project."""
        metadata = self.row.get("metadata")
        return isinstance(metadata, Mapping) and metadata.get("exact_key") is True


@dataclass(frozen=True, slots=True)
class Mark:
    """The verdict on one answer.

    Attributes:
        official: Credit by the benchmark's own rule, 0 to 1 unless it has another scale.
        lenient: Credit by this project's parser.
        is_parsed: Whether the lenient parser found an answer in the text.
        said: The answer that the official rule understood, if it understood one.
        against: Credit that this one is measured against: the reference's grade, where one is.
    """

    official: float
    lenient: float
    is_parsed: bool = True
    said: str | None = None
    against: float = 1.0

    def credit(self, kind: Kind) -> float:
        return self.official if kind == "official" else self.lenient


@dataclass(frozen=True, slots=True)
class Marked:
    """A question, the answer's text (None: there is no answer) and its mark."""

    question: Question
    text: str | None
    mark: Mark


@dataclass(frozen=True, slots=True)
class Figure:
    """One number of a score, and the number of units it is over."""

    value: float
    n: int


@dataclass(frozen=True, slots=True)
class Unit:
    """The smallest part of a score that can be drawn again: a question, or a group that counts as
    one.

    Attributes:
        stratum: The score is the sum over strata of 100 * credits / credits to be had.
    """

    key: str
    credit: float
    against: float = 1.0
    stratum: str = ""


@dataclass(frozen=True, slots=True)
class Source:
    """Where a data set comes from. Nothing is downloaded: users have the files.

    Attributes:
        sizes: Numbers of questions that whole releases have; another number is pointed out.
    """

    origin: str
    licence: str
    files: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Generation:
    """How the paper asked: greedy, one beam, `<image>` and a line break before the prompt."""

    max_tokens: int
    image_mode: Literal["pad", "crop"]
    template: str = "vicuna_v1"


@dataclass(frozen=True, slots=True)
class Published:
    """Table 3 of the paper, for one figure."""

    share_7b: float
    share_13b: float
    llava_13b: float


@dataclass(frozen=True, slots=True)
class Submission:
    """The file that a remote scorer takes."""

    name: str
    build: Callable[[Sequence[Marked]], bytes]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark; each stands in a module of its own.

    Attributes:
        read: The questions below a URI, as users have them on their disks.
        mark: The verdict on one answer's text.
        figures: The headline first, then the rest, by name.
        units: By the name of each figure that is compared, what a comparison draws again; it
            adds up to the figure.
        find_keys: The ids that an answer may stand under, best first.
        scorer: Name and version of the rule, printed beside the score.
        submission: The file for a remote scorer, if there is one.
        published: The paper's figures, by the name of ours.
        folders: Names of the folder that the files often lie in, beside the benchmark's own.
        name_images: Paths that the image of a question may have below the data's folder, best
            first.
        read_pictures: The images by the questions' keys, if the data's file holds them in itself.
        is_asked: Whether a model that sees images is asked a question.
        is_judged: Whether a model grades the answers; the answers file then holds its grades.
        notes: Sentences printed below every score.
    """

    name: str
    title: str
    source: Source
    generation: Generation
    scorer: str
    read: Callable[[str], list[Question]]
    mark: Callable[[Question, str], Mark]
    figures: Callable[[Sequence[Marked], Kind], dict[str, Figure]]
    units: Callable[[Sequence[Marked]], dict[str, list[Unit]]]
    find_keys: Callable[[Answer], tuple[str, ...]] = lambda answer: (answer.key,)
    mark_missing: Callable[[Question], Mark] = lambda question: Mark(0.0, 0.0, is_parsed=False)
    folders: tuple[str, ...] = ()
    name_images: Callable[[Question], Sequence[str]] = lambda question: (
        f"images/{question.image}",
        question.image,
    )
    read_pictures: Callable[[str], Mapping[str, bytes]] | None = None
    is_asked: Callable[[Question], bool] = lambda question: True
    submission: Submission | None = None
    published: Mapping[str, Published] = field(default_factory=dict)
    is_judged: bool = False
    notes: tuple[str, ...] = ()
