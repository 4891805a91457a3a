"""Counts the data of a job for `--plan`: samples, tokens, learnt tokens, images. Reads no image."""

import math
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from s4v_core import chat
from s4v_core.datasets.conversations import Conversation, Unusable, is_json, read_conversations
from s4v_core.datasets.joining import join_images
from s4v_core.datasets.random_reads import describe_packed_tar, describe_row_groups
from s4v_core.inputs.finding import find_shards
from s4v_core.training.data.samples import encode_sample
from s4v_core.training.data.tokens import Encoder
from s4v_core.training.stage import Expected, TrainStage

_ENCODED = 2000
"""Samples of which the tokens are counted; drawn at random, so that a mixture counts as it is."""

_CHARS_PER_TOKEN = 4.0
_IMAGE_TOKENS = 576


@dataclass(frozen=True, slots=True)
class DataCounts:
    """The counts of a job's data.

    Attributes:
        expected: Number of samples, and the mean of their tokens and learnt tokens.
        images: Mean number of images of a sample.
        encoded: Number of samples of which the tokens were counted.
        unusable: Number of records that cannot be used, by reason; those among the encoded samples
            are scaled up to all.
        is_guessed: Whether tokens were guessed from characters, because the model is not there.
        notes: A sentence for each container that is slow to read at random.
    """

    expected: Expected
    images: float
    encoded: int
    unusable: dict[str, int]
    is_guessed: bool
    notes: tuple[str, ...]

    def as_text(self) -> str:
        expected = self.expected
        how = "guessed from characters" if self.is_guessed else f"counted on {self.encoded:,}"
        text = (
            f"data: {expected.samples:,} samples of {expected.tokens} tokens, {expected.learnt} of "
            f"them learnt, and {self.images:.2f} images on average (tokens {how})"
        )
        if self.unusable:
            reasons = ", ".join(f"{name} {n:,}" for name, n in sorted(self.unusable.items()))
            text += f"; not usable: {reasons}"
        return "\n".join([text, *(f"slow: {note}" for note in self.notes)])


def count_data(job: TrainStage, encoder: Encoder | None) -> DataCounts:
    """Read all records of a job's data, and encode 2,000 of them.

    Args:
        encoder: Encoder of the job's model; None if the model is not there.

    Raises:
        InputError: A data set is missing, or is no JSON of conversations and no caption run.
    """
    unusable: Counter[str] = Counter()
    usable, images = 0, 0
    drawn: list[Conversation] = []
    chance = random.Random(0)
    for found in _read_all(job):
        if isinstance(found, Unusable):
            unusable[found.reason] += 1
            continue
        usable, images = usable + 1, images + len(found.images)
        if len(drawn) < _ENCODED:
            drawn.append(found)
        elif (place := chance.randrange(usable)) < _ENCODED:
            drawn[place] = found
    lengths = [_measure(one, job, encoder) for one in drawn]
    refused = Counter(one for one in lengths if isinstance(one, str))
    measured = [one for one in lengths if not isinstance(one, str)] or [(1, 1)]
    for reason, count in refused.items():  # scaled up to all
        unusable[reason] += round(count * usable / len(drawn))
    left = usable - sum(round(count * usable / len(drawn)) for count in refused.values())
    return DataCounts(
        expected=Expected(
            samples=max(left, 1),
            tokens=max(round(sum(tokens for tokens, _ in measured) / len(measured)), 1),
            learnt=max(round(sum(learnt for _, learnt in measured) / len(measured)), 1),
        ),
        images=images / max(usable, 1),
        encoded=len(drawn),
        unusable=dict(unusable),
        is_guessed=encoder is None,
        notes=tuple(_describe_containers(job)),
    )


def _read_all(job: TrainStage) -> Iterator[Conversation | Unusable]:
    """Every record; that of a JSON is read without looking for its images."""
    for uri in job.data:
        if is_json(uri):
            yield from read_conversations(uri)
            continue
        for found in join_images((uri,), (), None):
            yield found if isinstance(found, Unusable) else found.conversation


def _measure(
    conversation: Conversation, job: TrainStage, encoder: Encoder | None
) -> tuple[int, int] | str:
    """Tokens and learnt tokens of a conversation, or the reason why it cannot be used."""
    template = chat.find_template(job.template)
    if encoder:
        encoded = encode_sample(conversation, template, encoder)
        if isinstance(encoded, str):
            return encoded
        return encoded.length, sum(encoded.learnt)
    pieces = template.build_pieces(conversation.turns, conversation.image_turns)
    texts = [(len(piece.text), piece.learnt) for piece in pieces if piece.kind == "text"]
    tokens = math.ceil(sum(length for length, _ in texts) / _CHARS_PER_TOKEN)
    learnt = math.ceil(sum(length for length, is_learnt in texts if is_learnt) / _CHARS_PER_TOKEN)
    whole = tokens + _IMAGE_TOKENS * len(conversation.images)
    return min(whole, job.max_tokens), learnt


def _describe_containers(job: TrainStage) -> Iterator[str]:
    """Sentences about containers of the job's images that are slow to read at random."""
    if not job.images:
        return  # the images of a JSON's own folder are loose files, or are named by it
    shards = find_shards(job.images)
    packed = [shard.uri for shard in shards if shard.kind == "targz"]
    if packed:
        others = f" (and {len(packed) - 1} others)" if len(packed) > 1 else ""
        yield f"{packed[0]}{others} {describe_packed_tar(packed[0])}; training refuses it"
    yield from describe_row_groups([shard.uri for shard in shards if shard.kind == "parquet"])
