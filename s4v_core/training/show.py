"""Prints samples for `--show`: as the model sees them, with the learnt tokens in colour."""

from collections.abc import Iterator
from itertools import islice

from s4v_core.datasets.conversations import Unusable
from s4v_core.datasets.joining import PlacedConversation, join_images
from s4v_core.errors import InputError
from s4v_core.terminal import printable
from s4v_core.training.checks import check_stage
from s4v_core.training.data.samples import encode_sample
from s4v_core.training.preparation import make_demo_world
from s4v_core.training.stage import TrainStage

_LEARNT, _RESET = "\033[1;32m", "\033[0m"


def show_samples(job: TrainStage) -> Iterator[str]:
    """The first samples of a job. Learnt tokens are green, each after a middle dot.

    Raises:
        ConfigError, InputError: The job cannot be run, for the same reasons as in training.
    """
    if job.demo_scenes:
        make_demo_world(job)
    checked = check_stage(job)
    template, encoder, tokenizer = (
        checked.template,
        checked.encoder,
        checked.tokenizer,
    )
    samples = join_images(job.data, job.images, job.image_root, job.match_file_names)
    first = list(islice(samples, job.show))
    if not first:
        raise InputError(", ".join(job.data), "holds no records")
    for sample in first:
        if isinstance(sample, Unusable):
            yield f"{printable(sample.sample_id)}: left out: {printable(_name_reason(sample))}\n"
            continue
        conversation = sample.conversation
        encoded = encode_sample(conversation, template, encoder)
        if isinstance(encoded, str):
            yield f"{printable(conversation.sample_id)}: left out: {encoded}\n"
            continue
        spelled = [_make_visible(tokenizer.decode([token])) for token in encoded.ids]
        parts = [
            f"{_LEARNT}\u00b7{text}{_RESET}" if learnt else text
            for text, learnt in zip(spelled, encoded.learnt, strict=True)
        ]
        yield (
            f"{printable(conversation.sample_id)} "
            f"(image: {_name_images(sample)}): "
            f"{encoded.length} tokens, {sum(encoded.learnt)} learnt\n{''.join(parts)}\n"
        )


def _name_images(sample: PlacedConversation) -> str:
    return ", ".join(printable(place["uri"]) for place in sample.places) or "none"


def _name_reason(sample: Unusable) -> str:
    parts = (sample.reason, sample.field, sample.found)
    return ", ".join(part for part in parts if part)


def _make_visible(text: str) -> str:
    """A token's text with a visible sign for a newline, and for any other control character."""
    return "".join(c if c.isprintable() else "\u23ce" if c == "\n" else "\ufffd" for c in text)
