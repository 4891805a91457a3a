"""CLIP and SigLIP as judges of (image, text) pairs."""

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
import transformers
from PIL import Image

from s4v_core import storage
from s4v_core.checkpoints import SETTINGS, WEIGHTS, is_uri, locate_checkpoint
from s4v_core.engines.requests import Picture
from s4v_core.engines.scorer_spec import ScorerSpec

_CLIP_WEIGHT = 2.5
"""Factor that CLIPScore puts before the cosine (Hessel et al. 2021)."""

_SENTENCE_ENDS = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s*(?=\S)|\n+")


class PairScorer:
    """A model with an image and a text encoder, in this process.

    A score of CLIP is CLIPScore, 2.5 x max(cosine, 0): 0 to 2.5. A score of SigLIP is the
    probability that image and text belong together, the sigmoid of its scaled and shifted cosine: 0
    to 1.

    A text that is longer than the text encoder takes (CLIP: 77 tokens, SigLIP: 64) is cut into
    pieces of whole sentences, as long as fit; their cosines are averaged before the score is made
    of them. Only a single sentence that is longer is truncated.
    """

    def __init__(self, spec: ScorerSpec) -> None:
        place, revision = _locate(spec)
        options: dict[str, Any] = {"trust_remote_code": False, "revision": revision}
        transformers.logging.disable_progress_bar()
        self._processor = transformers.AutoProcessor.from_pretrained(place, **options)
        dtype = torch.float16 if spec.device == "gpu" else torch.float32
        model = transformers.AutoModel.from_pretrained(place, dtype=dtype, **options)
        self._model = model.eval().to("cuda" if spec.device == "gpu" else "cpu")
        self._longest: int = self._model.config.text_config.max_position_embeddings
        self._prefix = spec.prefix
        self._is_siglip = str(self._model.config.model_type).startswith("siglip")

    def score(self, pairs: Sequence[tuple[Picture, str]]) -> list[float]:
        """The score of each pair."""
        pieces = [self._split_text(text) for _, text in pairs]
        ends = [0]
        for of_text in pieces:
            ends.append(ends[-1] + len(of_text))
        images, texts = self._embed([p for p, _ in pairs], [one for of in pieces for one in of])
        cosines = [
            (texts[start:end] @ images[at]).mean() for at, (start, end) in enumerate(pairwise(ends))
        ]
        scores: list[float] = self._scale(torch.stack(cosines)).tolist()
        return scores

    def _split_text(self, text: str) -> list[str]:
        """The text whole if it fits, else pieces of whole sentences that do."""
        if self._count_tokens(self._prefix + text) <= self._longest:
            return [self._prefix + text]
        room = self._longest - self._count_tokens(self._prefix)
        pieces: list[str] = []
        left = 0
        for sentence in filter(None, _SENTENCE_ENDS.split(text)):
            tokens = self._count_tokens(sentence, with_ends=False)
            if pieces and tokens <= left:
                pieces[-1] += f" {sentence}"
                left -= tokens
            else:
                pieces.append(self._prefix + sentence)
                left = room - tokens
        return pieces or [self._prefix + text]

    def _count_tokens(self, text: str, with_ends: bool = True) -> int:
        found = self._processor.tokenizer(text, add_special_tokens=with_ends, verbose=False)
        return len(found["input_ids"])

    def _embed(
        self, pictures: Sequence[Picture], texts: list[str]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Unit vectors of pictures and of texts, float32."""
        inputs = self._processor(
            images=[Image.fromarray(picture) for picture in pictures],
            text=texts,
            # SigLIP was trained on padded texts, and reads their last token.
            padding="max_length" if self._is_siglip else True,
            max_length=self._longest,
            truncation=True,
            return_tensors="pt",
        ).to(self._model.device, self._model.dtype)
        with torch.inference_mode():
            found = self._model(**inputs)
        images, embedded = found.image_embeds.float(), found.text_embeds.float()
        return torch.nn.functional.normalize(images), torch.nn.functional.normalize(embedded)

    def _scale(self, cosines: torch.Tensor) -> torch.Tensor:
        if not self._is_siglip:
            return _CLIP_WEIGHT * cosines.clamp(min=0)
        scale, bias = self._model.logit_scale.float().exp(), self._model.logit_bias.float()
        return torch.sigmoid(cosines * scale + bias)


def _locate(spec: ScorerSpec) -> tuple[str, str | None]:
    """Folder or hub id that transformers can open, and the commit of a hub id."""
    if is_uri(spec.model):
        with storage.patience(storage.UNIT_PATIENCE_S):
            folder, _ = locate_checkpoint(spec.model, (*SETTINGS, *WEIGHTS), spec.revision)
        return str(folder), None
    is_folder = spec.revision.startswith("sha256:")
    return spec.model, None if is_folder else spec.revision
