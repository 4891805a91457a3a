"""Counts the data of a job for `--plan`: samples, tokens, learnt tokens, images. Reads images only
for models whose images differ in size, and then a few."""

import math
import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from s4v_core.datasets.conversations import Conversation, Unusable, is_json, read_conversations
from s4v_core.datasets.joining import PlacedConversation, join_images
from s4v_core.datasets.random_reads import describe_packed_tar, describe_row_groups
from s4v_core.inputs.finding import find_shards
from s4v_core.training.data.samples import AnyTemplate, encode_sample
from s4v_core.training.data.tokens import Encoder
from s4v_core.training.estimate.image_counts import ReadSamples, read_samples
from s4v_core.training.estimate.planned_model import PlannedModel
from s4v_core.training.stage import Expected, TrainStage

_ENCODED = 2000
"""Samples of which the tokens are counted; drawn at random, so that a mixture counts as it is."""

_READ = 200
"""Samples that are read with their images, where those decide the number of tokens."""

_CHARS_PER_TOKEN = 4.0
_IMAGE_TOKENS = 576


@dataclass(frozen=True, slots=True)
class DataCounts:
    """The counts of a job's data.

    Attributes:
        expected: Number of samples, and the mean of their tokens and learnt tokens.
        images: Mean number of images of a sample.
        image_tokens: Mean number of tokens of an image, where images differ in size and were read.
        encoded: Number of samples of which the tokens were counted.
        unusable: Number of records that cannot be used, by reason; those among the encoded samples
            are scaled up to all.
        is_guessed: Whether tokens were guessed from characters, because the model is not there.
        notes: A sentence for each container that is slow to read at random.
    """

    expected: Expected
    images: float
    image_tokens: float | None
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
        if self.image_tokens is not None:
            text += f"; an image has {self.image_tokens:.0f} tokens on average"
        if self.unusable:
            reasons = ", ".join(f"{name} {n:,}" for name, n in sorted(self.unusable.items()))
            text += f"; not usable: {reasons}"
        return "\n".join([text, *(f"slow: {note}" for note in self.notes)])


def count_data(job: TrainStage, model: PlannedModel) -> DataCounts:
    """Read all records of a job's data, and encode 2,000 of them; where images differ in size, read
    200 with their images instead.

    Raises:
        InputError: A data set is missing, or is no JSON of conversations and no caption run.
        StorageError: The store of the images does not answer.
    """
    reads_images = model.has_own_sizes
    unusable: Counter[str] = Counter()
    usable, images = 0, 0
    drawn: list[PlacedConversation] = []
    wanted = _READ if reads_images else _ENCODED
    chance = random.Random(0)
    for found in _read_all(job, reads_images):
        if isinstance(found, Unusable):
            unusable[found.reason] += 1
            continue
        usable, images = usable + 1, images + len(found.conversation.images)
        if len(drawn) < wanted:
            drawn.append(found)
        elif (place := chance.randrange(usable)) < wanted:
            drawn[place] = found
    measured = _measure(drawn, job, model, reads_images)
    refused = Counter(measured.refused)
    for reason, count in refused.items():  # scaled up to all
        unusable[reason] += round(count * usable / len(drawn))
    left = usable - sum(round(count * usable / len(drawn)) for count in refused.values())
    lengths = measured.lengths or [(1, 1)]
    return DataCounts(
        expected=job.expected.replace(
            samples=max(left, 1),
            tokens=max(round(sum(tokens for tokens, _ in lengths) / len(lengths)), 1),
            learnt=max(round(sum(learnt for _, learnt in lengths) / len(lengths)), 1),
        ),
        images=images / max(usable, 1),
        image_tokens=measured.image_tokens / measured.images if measured.images else None,
        encoded=len(drawn),
        unusable=dict(unusable),
        is_guessed=model.tokenizer is None,
        notes=tuple(_describe_containers(job)),
    )


def _read_all(job: TrainStage, finds_images: bool) -> Iterator[PlacedConversation | Unusable]:
    """Every record; that of a JSON is read without looking for its images if nobody needs them."""
    if finds_images:
        yield from join_images(job.data, job.images, job.image_root, job.match_file_names)
        return
    for uri in job.data:
        if not is_json(uri):
            yield from join_images((uri,), (), None)
            continue
        for found in read_conversations(uri):
            yield found if isinstance(found, Unusable) else PlacedConversation(found, ())


def _measure(
    drawn: Sequence[PlacedConversation], job: TrainStage, model: PlannedModel, reads_images: bool
) -> ReadSamples:
    """Tokens and learnt tokens of the drawn samples, and why some of them cannot be used."""
    template = model.build_template(job)
    encoder, collator = model.build_encoder(job), model.build_collator(job)
    if reads_images and encoder and collator:
        framing = model.family.build_framing(job, model.config)
        return read_samples(drawn, template, encoder, collator, framing)
    found = [_measure_text(one.conversation, job, template, encoder) for one in drawn]
    return ReadSamples(
        lengths=[one for one in found if not isinstance(one, str)],
        images=0,
        image_tokens=0,
        refused=[one for one in found if isinstance(one, str)],
    )


def _measure_text(
    conversation: Conversation, job: TrainStage, template: AnyTemplate, encoder: Encoder | None
) -> tuple[int, int] | str:
    """Tokens and learnt tokens of a conversation, or the reason why it cannot be used."""
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
