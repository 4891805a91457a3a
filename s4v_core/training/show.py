"""`--show`: samples as the model sees them, the tokens that carry loss in colour."""

from collections.abc import Iterator
from itertools import islice

from s4v_core import chat
from s4v_core.datasets.conversations import Unusable
from s4v_core.training.data.samples import encode_sample, read_samples
from s4v_core.training.run import check_stage, make_demo_world
from s4v_core.training.stage import TrainStage

LEARNT, RESET = "\033[1;32m", "\033[0m"


def show_samples(job: TrainStage) -> Iterator[str]:
    """The first samples of a job; learnt tokens green, each behind a middle dot.

    Raises:
        ConfigError, InputError: As for training.
    """
    if job.demo_scenes:
        make_demo_world(job)
    checked = check_stage(job)
    template = chat.find_template(job.template)
    encoder, tokenizer = checked.encoder, checked.tokenizer
    for sample in islice(read_samples(job.data, job.images, job.image_root), job.show):
        if isinstance(sample, Unusable):
            yield f"{sample.sample_id}: left out: {sample.reason}\n"
            continue
        conversation, place = sample
        encoded = encode_sample(conversation, template, encoder)
        if isinstance(encoded, str):
            yield f"{conversation.sample_id}: left out: {encoded}\n"
            continue
        spelled = [_shown(tokenizer.decode([token])) for token in encoded.ids]
        parts = [
            f"{LEARNT}\u00b7{text}{RESET}" if learnt else text
            for text, learnt in zip(spelled, encoded.learnt, strict=True)
        ]
        yield (
            f"{conversation.sample_id} (image: {place['uri'] if place else 'none'}): "
            f"{encoded.length} tokens, {sum(encoded.learnt)} learnt\n{''.join(parts)}\n"
        )


def _shown(text: str) -> str:
    """A token's text; what moves the cursor or is no text is named."""
    return "".join(c if c.isprintable() else "\u23ce" if c == "\n" else "\ufffd" for c in text)
