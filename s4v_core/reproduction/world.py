"""The demo world as commands: which script makes what, from what, and how long it takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from s4v_core.reproduction.command import OWN, Argument, Command, Output
from s4v_core.reproduction.sizes import Sizes

ModelSize = Literal["small", "large"]

_PARTS = ("web", "talk", "teacher", "pretrain", "mixture", "exam")
"""Sets of pictures; the number of a set is part of its seed, so that none is in two sets."""

_SEED_STEP = 10
_NEW = {"small": "new:world", "large": "new:world-large"}
_DETAIL_EVERY = 4
"""One of so many pictures of a mixture has a detailed description that can be replaced."""

BENCHMARKS = ("mme", "mmbench", "vqav2")
_QUESTIONS_PER_VIEW = 15
_ALL_LEARN = ("--learning.vision-from", "0", "--learning.vision-stem")
_LARGE_FACTOR = 2.5
_TALK_FACTOR = 4
"""How much longer a step with talks takes than one with pictures."""
_TEST_SHARE = 0.3
"""Share of the synthesised prompts whose images the benchmark asks about."""
_ABILITIES = 4
_PICTURES_PER_RECORD = 2
"""At most: color has one picture in a record, the three other abilities have two."""
_TINY = (
    *("--device", "cpu", "--loader-workers", "0", "--prepare-workers", "0"),
    # A step's samples are sorted by length first: 7 % padding, where all 32 at once have 22 %.
    *("--device-batch-size", "8"),
)
FROZEN = "None"
"""Value of --learning.vision-from that means that no block of the tower learns."""


@dataclass(frozen=True, slots=True)
class DemoWorld:
    """Builds the commands of the demo world.

    Attributes:
        cpus: CPUs that stages use that nothing else can run beside.
    """

    sizes: Sizes
    cpus: int = 1

    def draw(self, part: str) -> Command:
        """A set of pictures with all that is said about them."""
        sizes = self.sizes
        count = {
            "web": sizes.web_views,
            "talk": sizes.talk_views,
            "teacher": sizes.teacher_views,
            "pretrain": sizes.pretrain_views,
            "mixture": sizes.mixture_views,
            "exam": sizes.exam_views,
        }[part]
        seed = sizes.world_seed * _SEED_STEP + _PARTS.index(part)
        kind = ("--exam",) if part == "exam" else ()
        flags = ("--views", str(count), "--seed", str(seed), *kind)
        own = f"{OWN}/{part}"
        return Command(f"draw {part}", "dataset.py", ("draw", own, *flags), 5 + count * 0.004)

    def find(self, part: str, file: str = "") -> Output:
        """A file of a set of pictures, or its folder."""
        return Output(self.draw(part), f"{part}/{file}".rstrip("/"))

    def train_base(self, size: ModelSize = "small") -> Command:
        """The start model: a tower that knows the main things of a picture by name, and a language
        model that knows descriptions and questions from texts alone."""
        sizes = self.sizes
        samples = (sizes.web_views + sizes.talk_views * _TALK_FACTOR) * sizes.base_epochs
        data = (self.find("web", "brief.json"), self.find("talk", "talk.json"))
        return self._train(
            f"start model ({size})",
            "train_captioner.py",
            _NEW[size],
            data,
            (self.find("web"),),
            (
                *_ALL_LEARN,
                *("--group-by-modality", "--epochs", str(sizes.base_epochs)),
                *("--optimiser.learning-rate", str(sizes.base_rate), "--seed", "0"),
            ),
            samples,
            size,
            workers=self.cpus,
        )

    def train_captioner(self) -> Command:
        """The Share-Captioner: the start model, trained on the teacher's captions."""
        sizes = self.sizes
        return self._train(
            "captioner",
            "train_captioner.py",
            Output(self.train_base(), "model"),
            (self.find("teacher", "teacher.json"),),
            (self.find("teacher"),),
            (
                *_ALL_LEARN,
                *("--epochs", str(sizes.captioner_epochs)),
                *("--optimiser.learning-rate", str(sizes.captioner_rate), "--seed", "0"),
            ),
            sizes.teacher_views * sizes.captioner_epochs,
            "small",
            workers=self.cpus,
        )

    def caption(self, part: str = "pretrain") -> Command:
        """The pass of the captioner over a set of pictures, as JSON of conversations."""
        sizes = self.sizes
        count = sizes.pretrain_views if part == "pretrain" else sizes.teacher_views
        return Command(
            f"caption {part}",
            "caption.py",
            (
                "demo",
                *("--input", self.find(part, "*.tar"), "--output", OWN),
                *("--model", Output(self.train_captioner(), "model")),
                *("--unit-size", "64"),
                *(() if sizes.is_gated else ("--gate.no-enabled",)),
            ),
            sizes.start_s + count / sizes.captions_per_s / self.cpus,
            cpus=self.cpus,
            free=("--settings.cpus", str(self.cpus)),
        )

    def export_captions(self) -> Command:
        """The captioner's captions of the pictures of pretraining."""
        flags = ("--to", f"{OWN}/captions.json")
        return Command("export captions", "export.py", (Output(self.caption()), *flags), 8)

    def sample_captions(self, count: int, seed: int) -> Output:
        """Some of the captioner's captions; smaller samples of a seed are parts of larger ones."""
        captions = Output(self.export_captions(), "captions.json")
        if count >= self.sizes.pretrain_views:
            return captions
        flags = ("--count", str(count), "--seed", str(seed), "--to", f"{OWN}/captions.json")
        name = f"sample {count} captions"
        return Output(Command(name, "dataset.py", ("sample", captions, *flags), 5), "captions.json")

    def pretrain(
        self,
        data: Output,
        seed: int,
        vision_from: str = "2",
        learns_language: bool = True,
        count: int | None = None,
        size: ModelSize = "small",
    ) -> Command:
        """Pretraining from the start model on captions of the same pictures.

        Args:
            vision_from: First block of the tower that learns, of four; FROZEN if none does.
            learns_language: Whether more than the projector learns.
        """
        sizes = self.sizes
        language = () if learns_language else ("--learning.no-language",)
        return self._train(
            f"pretrain ({seed})",
            "pretrain.py",
            Output(self.train_base(size), "model"),
            (data,),
            (self.find("pretrain"),),
            (
                *("--learning.vision-from", vision_from, *language),
                *("--optimiser.learning-rate", str(sizes.pretrain_rate), "--seed", str(seed)),
            ),
            count or sizes.pretrain_views,
            size,
        )

    def mix(self, seed: int, share: float) -> Output:
        """The mixture with a share of its detailed descriptions replaced by the teacher's."""
        plain = self.find("mixture", "mixture.json")
        details = self.sizes.mixture_views // _DETAIL_EVERY
        count = round(min(details, self.sizes.teacher_views) * share)
        if not count:
            return plain
        flags = (
            *("--captions", self.find("teacher", "teacher.json"), "--to", f"{OWN}/mixture.json"),
            *("--quota", f"others={count}", "--seed", str(seed)),
        )
        name = f"swap {count} descriptions ({seed})"
        return Output(Command(name, "dataset.py", ("mix", plain, *flags), 5), "mixture.json")

    def finetune(
        self,
        pretrained: Command,
        data: Output,
        seed: int,
        size: ModelSize = "small",
        with_synthesised: bool = False,
    ) -> Command:
        """Fine-tuning of a pretrained model on a mixture, with or without synthesised records."""
        sizes = self.sizes
        records, images = [data], [self.find("mixture"), self.find("teacher")]
        samples = sizes.mixture_views + sizes.mixture_views // _DETAIL_EVERY
        if with_synthesised:
            records.append(Output(self.synthesise(), "records/train.json"))
            images.append(Output(self.synthesise(), "records/shards"))
            samples += round(sizes.synthesised * _ABILITIES * (1 - _TEST_SHARE))
        return self._train(
            f"fine-tune ({seed})",
            "finetune.py",
            Output(pretrained, "model"),
            records,
            images,
            ("--optimiser.learning-rate", str(sizes.finetune_rate), "--seed", str(seed)),
            samples,
            size,
        )

    def synthesise(self) -> Command:
        """Records and a benchmark of the abilities that drawn scenes can express."""
        sizes = self.sizes
        pictures = sizes.synthesised * _ABILITIES * _PICTURES_PER_RECORD
        return Command(
            "synthesise",
            "synthesize.py",
            (
                *("demo", "--output", OWN, "--count", str(sizes.synthesised)),
                *("--test-share", str(_TEST_SHARE), "--benchmark-count", str(sizes.synthesised)),
            ),
            4 * sizes.start_s + pictures / sizes.pictures_per_s / self.cpus,
            cpus=self.cpus,
            free=("--settings.cpus", str(self.cpus)),
        )

    def evaluate(self, tuned: Command) -> Command:
        """The exam of a model."""
        questions = self.sizes.exam_views * _QUESTIONS_PER_VIEW
        return self._ask(tuned, self.find("exam"), BENCHMARKS, questions)

    def evaluate_keywords(self, tuned: Command) -> Command:
        """The questions of the synthesised benchmark, about generated images."""
        benchmark = Output(self.synthesise(), "benchmark")
        return self._ask(tuned, benchmark, ("stablellava",), self.sizes.synthesised)

    def _ask(
        self, tuned: Command, data: Output, benchmarks: Sequence[str], questions: int
    ) -> Command:
        sizes = self.sizes
        return Command(
            f"exam after {tuned.label}",
            "eval.py",
            (
                *("demo", "--model", Output(tuned, "model"), "--data", data),
                *("--benchmarks", ",".join(benchmarks), "--output", OWN, "--max-tokens", "12"),
            ),
            sizes.start_s + questions / sizes.answers_per_s,
            free=("--settings.cpus", "1"),
        )

    def _train(
        self,
        label: str,
        script: str,
        model: Argument,
        data: Sequence[Output],
        images: Sequence[Output],
        flags: Sequence[Argument],
        samples: int,
        size: ModelSize,
        workers: int = 1,
    ) -> Command:
        sizes = self.sizes
        named = [("--data", one) for one in data] + [("--images", one) for one in images]
        arguments: list[Argument] = ["demo", "--model", model, "--output", OWN]
        for pair in named:
            arguments += pair
        arguments += [*flags, *_TINY, "--batch-size", str(sizes.batch_size)]
        arguments += ["--optimiser.beta2", str(sizes.beta2)]
        step_s = sizes.step_s * (_LARGE_FACTOR if size == "large" else 1.0)
        return Command(
            label,
            script,
            tuple(arguments),
            sizes.start_s + samples / sizes.batch_size * step_s / workers,
            cpus=workers,
            free=("--workers", str(workers)),
        )
